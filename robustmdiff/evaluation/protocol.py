"""The missing-modality protocol: the same patients, masks and resamples for every method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from robustmdiff.data.batch import Batch
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.asking import BATCH, encode, evaluating, under
from robustmdiff.diagnosis.calibration import ALPHA
from robustmdiff.diagnosis.contract import DRAWS, DiagnosisModel
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.evaluation.conditions import MNAR_HALF
from robustmdiff.evaluation.masks import Masks, draw_masks
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import resamples
from robustmdiff.evaluation.subgroups import groups_of, subgroups
from robustmdiff.probability import check_probability
from robustmdiff.ranking import Array, Bools
from robustmdiff.refusal import Refusal

Collate = Callable[[Sequence[Patient]], Batch]
Reference = Callable[[Bools], Any]  # what is left, bool [n, M] -> probability [n, C]
MissingNotAtRandom = Callable[[float, int], Bools]  # rate, seed -> what the patients keep, bool [n, M]


def evaluate(
    models: Mapping[str, DiagnosisModel],
    patients: Sequence[Patient],
    collator: Collate,
    task: Task,
    *,
    sets: Mapping[str, ConformalSets] | None = None,
    references: Mapping[str, Reference] | None = None,
    weight: Array | None = None,
    masks: Masks | None = None,
    mnar: MissingNotAtRandom | None = None,
    draws: int | None = None,
    seed: int = 0,
    replicates: int = 200,
) -> Results:
    """Every model and reference under every condition.

    sets         the prediction sets that a model is shipped with, by its name; their coverage is measured.
    references   answers that need no encoders: `baselines.SourceOnly`, or "ceiling", the exact posterior.
    weight       float [n] importance weights of `patients`, where rare classes are enriched.
    masks        those of an earlier run; drawn from `seed` unless given.
    mnar         how the patients lose modalities if not at random, where that is known: one more condition.
    draws        of a diagnosis; each model's own number, for which its sets were calibrated, unless given.
    replicates   resamples of people (`Patient.person`) for the intervals.

    Batches are encoded once, on each model's device. A patient's answer depends on what is left only, so
    it is made once for each subset of modalities and looked up for every condition. Raises ValueError
    where a model or a reference gives what is no probability.
    """
    if not patients:
        raise Refusal("evaluate: patients is empty, expected at least one")
    if not models and not references:
        raise ValueError("evaluate: models is empty, expected at least one model or reference")
    sets = sets or {}
    alpha = _promise(sets, models)
    test = _describe(patients, collator, task)
    masks = _masks_of(test, task, masks, mnar, seed)
    left = test.presence & np.stack(list(masks.keep.values()))  # [K, n, M], K conditions
    weights = resamples(test.persons, replicates, seed)  # [R + 1, n]
    if weight is not None:
        weight = _checked_weight(weight, len(patients))
        weights = weights * weight
    results = Results(
        task,
        masks,
        test.presence,
        test.truth,
        alpha=alpha,
        weight=weight,
        groups=tuple(test.persons),
        subgroups=subgroups(test.groups),
        answers={name: model.answering(draws) for name, model in models.items()},
    )
    answers = _ask_models(models, patients, collator, left, draws, seed)
    answers |= _ask_references(references or {}, left, test.ids)
    for method, probability in answers.items():
        for condition, p, present in zip(_shown(masks.keep, method), probability, left, strict=True):
            held = sets[method].sets(p, present) if method in sets else None
            results.add(method, condition, p, weights, held)
    return results


class _Described(NamedTuple):
    """What is known of the test patients, but for their observations."""

    ids: list[str]
    persons: list[str]
    groups: list[tuple[str, ...]]  # of each patient
    truth: Truth
    presence: Bools  # [n, M]


def _describe(patients: Sequence[Patient], collator: Collate, task: Task) -> _Described:
    """In one pass: patients may be read from disk each time."""
    bare, persons, groups, presence = [], [], [], []
    for patient in patients:
        bare.append(replace(patient, modalities={}))
        persons.append(patient.person)
        groups.append(groups_of(patient))
        presence.append([patient.has(name) for name in task.modality_names])
    batch = collator(bare)
    truth = Truth(np.asarray(batch.label) > 0.5, np.asarray(batch.label_known, dtype=bool))
    return _Described(list(batch.ids), persons, groups, truth, np.array(presence, dtype=bool))


def _promise(sets: Mapping[str, ConformalSets], models: Mapping[str, DiagnosisModel]) -> float:
    """The alpha of all prediction sets."""
    for name in sets:
        if name not in models:
            raise ValueError(f"evaluate: sets has {name!r}, expected some of {', '.join(models)}")
    alphas = {each.alpha for each in sets.values()}
    if len(alphas) > 1:
        raise ValueError(f"evaluate: sets have alpha {sorted(alphas)}, expected the same in all of them")
    return alphas.pop() if alphas else ALPHA


def _masks_of(
    test: _Described, task: Task, masks: Masks | None, mnar: MissingNotAtRandom | None, seed: int
) -> Masks:
    if masks is None:
        masks = draw_masks(test.ids, test.presence, task.modality_names, seed=seed)
    if masks.ids != tuple(test.ids) or masks.modalities != task.modality_names:
        raise ValueError("evaluate: masks were stored for other patients or modalities than these")
    if mnar is None or MNAR_HALF in masks.keep:
        return masks
    return replace(masks, keep=masks.keep | {MNAR_HALF: mnar(MNAR_HALF.rate, seed)})


def _shown(steps: Collection[Any], what: str) -> Any:
    """The steps, with a bar of progress in a terminal."""
    return tqdm(steps, desc=what, disable=None, leave=False)


def _checked_weight(weight: Array, n: int) -> Array:
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (n,) or not np.isfinite(weight).all() or (weight < 0).any() or weight.sum() == 0:
        raise ValueError(
            f"evaluate: weight is {list(weight.shape)}, expected {n} numbers of at least 0, not all 0"
        )
    return weight


def _ask_models(
    models: Mapping[str, DiagnosisModel],
    patients: Sequence[Patient],
    collator: Collate,
    left: Bools,
    draws: int | None,
    seed: int,
) -> dict[str, Array]:
    """Probabilities by model, float64 [K, n, C], for what is left, bool [K, n, M]."""
    parts: dict[str, list[Array]] = {name: [] for name in models}
    for start in _shown(range(0, len(patients), BATCH), "test patients"):
        rows = slice(start, start + BATCH)
        batch = collator(patients[rows])
        for name, model in models.items():
            with evaluating(model):
                ask = partial(_probability, model, draws, seed)
                said = under(encode(model, batch), left[:, rows], ask)
            check_probability(f"evaluate: {name}", said, batch.ids)
            parts[name].append(said)
    return {name: np.concatenate(part, axis=1) for name, part in parts.items()}


def _probability(model: DiagnosisModel, draws: int | None, seed: int, view: Encoded) -> Tensor:
    needed = draws if model.answering(draws) == DRAWS else 0
    return model.diagnose(view, draws=needed, seed=seed).probability


def _ask_references(references: Mapping[str, Reference], left: Bools, ids: Sequence[str]) -> dict[str, Array]:
    answers = {}
    for name, answer in references.items():
        answers[name] = np.stack([np.asarray(answer(one), dtype=np.float64) for one in left])
        check_probability(f"evaluate: {name}", answers[name], ids)
    return answers
