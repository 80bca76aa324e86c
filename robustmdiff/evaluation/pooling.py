"""Cross-validation in one table: folds pooled to one test set, repeats averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robustmdiff.evaluation.masks import Masks
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import resamples


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
    first = repeats[0]
    if any(other.masks.ids != first.masks.ids for other in repeats):
        raise ValueError("over_repeats: repeats are of different patients, expected the same in each")
    values = {
        method: {
            condition: {
                metric: np.mean([r.values[method][condition][metric] for r in repeats], axis=0)
                for metric in measured
            }
            for condition, measured in conditions.items()
        }
        for method, conditions in first.values.items()
    }
    probability = {
        method: {
            condition: np.mean([r.probability[method][condition] for r in repeats], axis=0)
            for condition in conditions
        }
        for method, conditions in first.probability.items()
    }
    return replace(first, values=values, probability=probability, sets={})
