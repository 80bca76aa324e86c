"""The missing-modality protocol: the same patients, masks and resamples for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.uncertainty import ConformalSets
from robustmdiff.encoders.tensors import tensors
from robustmdiff.evaluation.masks import RATES, Masks, draw_masks
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import resamples
from robustmdiff.probability import check_probability
from robustmdiff.ranking import Array, Bools
from robustmdiff.refusal import Refusal

Reference = Callable[[Bools], Any]  # kept presence bool [n, M] -> probability [n, C]


def evaluate(
    models: Mapping[str, DiagnosisModel],
    patients: Sequence[Patient],
    collator: Callable[[Sequence[Patient]], Batch],
    task: Task,
    *,
    calibration: Sequence[Patient] = (),
    posterior: Reference | None = None,
    references: Mapping[str, Reference] | None = None,
    weight: Array | None = None,
    groups: Sequence[str] | None = None,
    masks: Masks | None = None,
    rates: Sequence[float] = RATES,
    alpha: float = 0.1,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    replicates: int = 200,
    progress: bool = True,
) -> Results:
    """Every model and reference under every mask.

    calibration  patients whom neither training nor `patients` hold; with them each model gets
                 prediction sets per missing pattern, and coverage is measured.
    posterior    the exact posterior, p(class | what is kept), called "ceiling".
    references   other answers that need no encoders (`baselines.SourceOnly`).
    weight       float [n] importance weights of `patients`, where rare classes are enriched.
    groups       whose rows belong together in the bootstrap; `Patient.person`, unless given.
    masks        those of an earlier run; drawn from `seed` unless given.

    Batches are encoded once. A patient's answer depends on what is kept only, so it is made once
    for each subset of modalities and looked up for every condition; it does not depend on
    batch_size. Raises ValueError where a model or a reference gives what is no probability.
    """
    if not patients:
        raise Refusal("evaluate: patients is empty, expected at least one")
    if not models and not references:
        raise ValueError("evaluate: models is empty, expected at least one model or reference")
    ids, persons, truth, presence = _describe(patients, collator, task)
    if masks is None:
        masks = draw_masks(ids, presence, task.modality_names, rates=rates, seed=seed)
    elif masks.ids != tuple(ids) or masks.modalities != task.modality_names:
        raise ValueError("evaluate: masks were stored for other patients or modalities than these")
    kept = {name: presence & keep for name, keep in masks.keep.items()}
    asked = np.stack(list(kept.values()))  # [K, n, M]

    from rich.progress import Progress

    with Progress(disable=not progress, transient=True) as bar:
        options: dict[str, Any] = {"draws": draws, "seed": seed, "batch_size": batch_size}
        answers = _answers(models, patients, collator, asked, **options, bar=(bar, "test patients"))
        conformal = {}
        if calibration:
            described = _describe(calibration, collator, task)
            every = _every_subset(described.presence)  # [2^M, n, M]
            said = _answers(models, calibration, collator, every, **options, bar=(bar, "calibration"))
            for name, probability in said.items():
                conformal[name] = _calibrate(probability, described.truth, every, alpha, task.multilabel)

        stated = {"ceiling": posterior} if posterior else {}
        for name, answer in {**stated, **(references or {})}.items():
            answers[name] = np.stack([np.asarray(answer(k), dtype=np.float64) for k in kept.values()])
            check_probability(f"evaluate: {name}", answers[name], ids)
        persons = persons if groups is None else list(groups)
        w = resamples(persons, replicates, seed)
        if weight is not None:
            weight = _checked_weight(weight, len(patients))
            w = w * weight
        results = Results(task, masks, presence, truth, alpha=alpha, weight=weight, groups=tuple(persons))
        step = bar.add_task("metrics", total=len(answers) * len(kept))
        for name, probability in answers.items():
            for k, (condition, present) in enumerate(kept.items()):
                sets = None
                if name in conformal:
                    pair = torch.from_numpy(probability[k]), torch.from_numpy(present)
                    sets = conformal[name].sets(*pair).numpy()
                results.add(name, condition, probability[k], w, sets)
                bar.advance(step)
    return results


class _Described(NamedTuple):
    ids: list[str]
    groups: list[str]
    truth: Truth
    presence: Bools  # [n, M]


def _describe(
    patients: Sequence[Patient], collator: Callable[[Sequence[Patient]], Batch], task: Task
) -> _Described:
    """Everything but the observations, in one pass: patients may be read from disk each time."""
    bare, groups, presence = [], [], []
    for patient in patients:
        bare.append(replace(patient, modalities={}))
        groups.append(patient.person)
        presence.append([patient.has(name) for name in task.modality_names])
    batch = collator(bare)
    truth = Truth(np.asarray(batch.label) > 0.5, np.asarray(batch.label_known, dtype=bool))
    return _Described(list(batch.ids), groups, truth, np.array(presence, dtype=bool))


def _every_subset(presence: Bools) -> Bools:
    """Each patient under each subset of up to 6 modalities, the empty one included: [2^M, n, M]."""
    M = presence.shape[1]
    if M > 6:
        subsets = np.concatenate([np.zeros((1, M)), np.eye(M), 1 - np.eye(M), np.ones((1, M))]) > 0
    else:
        subsets = (np.arange(2**M)[:, None] >> np.arange(M)) % 2 > 0
    return presence & subsets[:, None]


@torch.no_grad()
def _answers(
    models: Mapping[str, DiagnosisModel],
    patients: Sequence[Patient],
    collator: Callable[[Sequence[Patient]], Batch],
    kept: Bools,
    *,
    draws: int,
    seed: int,
    batch_size: int,
    bar: tuple[Any, str],
) -> dict[str, Array]:
    """Probabilities by model, float64 [K, n, C], for kept bool [K, n, M]."""
    progress, what = bar
    starts = range(0, len(patients), batch_size)
    step = progress.add_task(what, total=len(starts) * len(models))
    parts: dict[str, list[Array]] = {name: [] for name in models}
    for start in starts:
        rows = slice(start, start + batch_size)
        batch = collator(patients[rows])
        distinct, which = _distinct(kept[:, rows])
        for name, model in models.items():
            parts[name].append(
                _diagnose(name, model, batch, distinct, draws, seed)[which, np.arange(len(batch))]
            )
            progress.advance(step)
    return {name: np.concatenate(part, axis=1) for name, part in parts.items()}


def _distinct(kept: Bools) -> tuple[Bools, np.ndarray]:
    """Each patient's distinct patterns: kept bool [K, b, M] -> patterns [P, b, M], and for each of
    the K which of the P it is, [K, b]. A patient with fewer than P repeats its first."""
    code = kept @ (1 << np.arange(kept.shape[2]))  # [K, b]
    which = np.empty_like(code)
    first = []
    for b in range(code.shape[1]):
        _, at, which[:, b] = np.unique(code[:, b], return_index=True, return_inverse=True)
        first.append(at)
    P = max(len(at) for at in first)
    index = np.stack([np.pad(at, (0, P - len(at)), mode="edge") for at in first], axis=1)  # [P, b]
    return kept[index, np.arange(code.shape[1])], which


def _diagnose(
    name: str, model: DiagnosisModel, batch: Batch, patterns: Bools, draws: int, seed: int
) -> Array:
    """Encode once, diagnose under each of the P patterns [P, b, M] -> float64 [P, b, C]."""
    assert isinstance(model, torch.nn.Module)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    try:
        encoded = model.encode(tensors(batch, device))
        said: list[Tensor] = []
        for pattern in patterns:
            mask = torch.from_numpy(pattern).to(device)
            said.append(model.diagnose(encoded.keep(mask), draws=draws, seed=seed).probability)
        probability = torch.stack(said).double().cpu().numpy()
    finally:
        model.train(training)
    check_probability(f"evaluate: {name}", probability, batch.ids)
    return probability


def _calibrate(
    probability: Array, truth: Truth, kept: Bools, alpha: float, multilabel: bool
) -> ConformalSets:
    """Prediction sets from calibration patients under every subset, each patient once per pattern."""
    code = kept @ (1 << np.arange(kept.shape[2]))  # [K, n]
    k, i = (np.concatenate(x) for x in zip(*_first_of_each(code), strict=True))
    return ConformalSets.fit(
        torch.from_numpy(probability[k, i]),
        torch.from_numpy(truth.label[i]),
        torch.from_numpy(kept[k, i]),
        alpha,
        known=torch.from_numpy(truth.known[i]),
        multilabel=multilabel,
    )


def _first_of_each(code: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(k, i) of the first of each patient's distinct codes [K, n], patient by patient."""
    firsts = [np.unique(code[:, i], return_index=True)[1] for i in range(code.shape[1])]
    return [(first, np.full(len(first), i)) for i, first in enumerate(firsts)]


def _checked_weight(weight: Array, n: int) -> Array:
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (n,) or not np.isfinite(weight).all() or (weight < 0).any() or weight.sum() == 0:
        raise ValueError(
            f"evaluate: weight is {list(weight.shape)}, expected {n} numbers of at least 0, not all 0"
        )
    return weight
