"""Several evaluations in one table: folds pooled to one test set, repeats averaged, seeds averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from robustmdiff.evaluation.forecasts import METRICS, Comparison, Scores
from robustmdiff.evaluation.masks import Masks
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.results import Results, Values
from robustmdiff.evaluation.statistics import over_seeds as mean_over_seeds
from robustmdiff.evaluation.statistics import resamples
from robustmdiff.ranking import Array
from robustmdiff.refusal import Refusal


def pool(folds: Sequence[Results], *, replicates: int = 200, seed: int = 0) -> Results:
    """The out-of-fold answers of all patients, measured together, rows in the order of the ids.

    Every patient is in one fold, and all folds have the same methods and conditions. Probabilities
    of different models are ranked against each other, so that the AUROC of a method whose level
    follows the training prevalence suffers: a stratified fold with more of a class leaves fewer to
    train on, and a method that knows nothing else comes out below .5 (Parker, Günter and Bedo 2007).
    """
    ids = [id for fold in folds for id in fold.masks.ids]
    if not folds or len(set(ids)) < len(ids):
        raise ValueError(f"pool: folds are {len(folds)} of {len(ids)} patients, expected each patient once")
    order = np.argsort(ids, kind="stable")
    first = folds[0]

    def rows(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[order]

    pooled = Results(
        first.task,
        Masks(
            tuple(ids[i] for i in order),
            first.masks.modalities,
            first.masks.rates,
            {name: rows([fold.masks.keep[name] for fold in folds]) for name in first.masks.keep},
        ),
        rows([fold.presence for fold in folds]),
        Truth(rows([fold.truth.label for fold in folds]), rows([fold.truth.known for fold in folds])),
        alpha=first.alpha,
        groups=tuple(rows([np.array(fold.groups) for fold in folds]).tolist()),
        subgroups={
            name: rows([fold.subgroups.get(name, np.zeros(len(fold.masks.ids), bool)) for fold in folds])
            for name in dict.fromkeys(name for fold in folds for name in fold.subgroups)
        },
        answers=_answers(folds),
        notes=_notes(folds),
    )
    weights = resamples(pooled.groups, replicates, seed)
    for method in first.probability:
        for condition in first.masks.keep:
            sets = None
            if method in first.sets:
                sets = rows([fold.sets[method][condition] for fold in folds])
            probability = rows([fold.probability[method][condition] for fold in folds])
            pooled.add(method, condition, probability.astype(np.float64), weights, sets)
    return pooled


def over_repeats(repeats: Sequence[Results]) -> Results:
    """Values are the means over repeats that ask the same patients under the same masks, resample by
    resample, so that intervals hold the patients and stay paired. Probabilities are averaged too, for
    the reliability figure; no value is measured from these averages."""
    return _mean("over_repeats: repeats", repeats, lambda values: values.mean(0))


def over_seeds(runs: Sequence[Results]) -> Results:
    """The mean over runs that differ in their training seed alone, with intervals that hold the patients
    and the seeds (`statistics.over_seeds`); of whatever all runs have. Probabilities are averaged too."""
    mean = _mean("over_seeds: runs", runs, mean_over_seeds)
    note = f"Means over {len(runs)} runs that differ in their seed; intervals hold patients and seeds."
    return replace(mean, notes=(*mean.notes, note))


def _mean(what: str, several: Sequence[Results], mean: Callable[[Array], Array]) -> Results:
    """mean makes [R + 1] of the values [K, R + 1] of all."""
    if not several:
        raise ValueError(f"{what} is empty, expected at least one")
    first, *others = several
    for other in others:
        if other.masks.ids != first.masks.ids:
            raise Refusal(f"{what} are of different patients, expected the same in each")
        if other.masks.keep.keys() != first.masks.keep.keys():
            raise Refusal(f"{what} have different conditions, expected the same in each")
        if not all(np.array_equal(other.masks.keep[c], keep) for c, keep in first.masks.keep.items()):
            raise Refusal(f"{what} have different masks, expected the same in each")
    methods = [name for name in first.values if all(name in other.values for other in others)]
    if not set(methods) - {"ceiling"}:
        raise Refusal(f"{what} have no method in common, expected at least one")

    def averaged(every: Sequence[Values], methods: Sequence[str]) -> Values:
        first, *others = every
        return {
            method: {
                condition: {
                    metric: mean(np.stack([values[method][condition][metric] for values in every]))
                    for metric in measured
                    if all(metric in values[method][condition] for values in others)
                }
                for condition, measured in first[method].items()
            }
            for method in methods
        }

    values = averaged([one.values for one in several], methods)
    of_subgroup = {
        name: averaged([one.of_subgroup[name] for one in several], methods)
        for name in first.of_subgroup
        if all(name in other.of_subgroup for other in others)
    }
    probability = {
        method: {
            condition: np.mean([one.probability[method][condition] for one in several], axis=0)
            for condition in first.probability[method]
        }
        for method in methods
    }
    return replace(
        first,
        values=values,
        of_subgroup=of_subgroup,
        probability=probability,
        forecasts=_forecasts([one.forecasts for one in several], mean),
        sets={},
        answers=_answers(several),
        notes=_notes(several),
    )


def _forecasts(several: Sequence[Comparison | None], mean: Callable[[Array], Array]) -> Comparison | None:
    """The mean of whatever all have: models of one study ask the same people under the same views."""
    every = [one for one in several if one is not None]
    if len(every) < len(several):
        return None
    first, *others = every

    def averaged(scores: Sequence[Scores]) -> Scores:
        plain = {name: mean(np.stack([getattr(one, name) for one in scores])) for name in METRICS}
        by_hidden = {
            hidden: (mean(np.stack(energy)), mean(np.stack(held)))
            for hidden in scores[0].by_hidden
            for energy, held in [zip(*(one.by_hidden[hidden] for one in scores), strict=True)]
        }
        return Scores(**plain, by_hidden=by_hidden)

    names = [name for name in first.scores if all(name in other.scores for other in others)]
    return first._replace(
        scores={name: averaged([one.scores[name] for one in every]) for name in names},
        fixed_order=mean(np.stack([one.fixed_order for one in every])),
    )


def _answers(several: Sequence[Results]) -> dict[str, str]:
    """Whose answers each method gave, all that occur."""
    found: dict[str, dict[str, None]] = {}
    for one in several:
        for method, answer in one.answers.items():
            found.setdefault(method, {})[answer] = None
    return {method: " or ".join(answers) for method, answers in found.items()}


def _notes(several: Sequence[Results]) -> tuple[str, ...]:
    """Those of all, each once."""
    return tuple(dict.fromkeys(note for one in several for note in one.notes))
