"""Validation: macro AUROC and log loss, with everything seen and with less, and which answer to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from robustmdiff.diagnosis.asking import evaluating
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.temperature import Said, fit_temperature
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.tensors import tensors
from robustmdiff.labels import Labels
from robustmdiff.probability import EPS, check_probability
from robustmdiff.ranking import macro_auroc
from robustmdiff.training.batches import PackedPatients
from robustmdiff.training.log import TrainingError
from robustmdiff.training.notes import Note

Ask = Callable[[Encoded], Tensor]


def validate(
    model: DiagnosisModel,
    accelerator: Accelerator,
    patients: PackedPatients,
    missing: Sequence[float],
    *,
    batch_size: int,
    seed: int,
) -> dict[str, float]:
    """{"macro_auroc": mean over the rates, "macro_auroc@0.5": at one, "log_loss": ...}.

    The masks of rate p hide a present modality where a number drawn once per patient and
    modality from `seed` is under p; they are the same at every validation. The processes share
    the patients; each returns all the numbers. A metric that these patients cannot have (an AUROC without
    a class of both kinds, a log loss without a known label) is left out. Raises TrainingError where the
    model gives NaN, which is neither better nor worse than any number.
    """

    def answer(view: Encoded) -> Tensor:
        return model.diagnose(view, seed=seed).probability.float()

    (probability,) = _under_masks(
        model, accelerator, patients, missing, [answer], batch_size=batch_size, seed=seed
    )
    try:
        check_probability("validation", probability, patients.ids)
    except ValueError as e:
        raise TrainingError(
            f"{e}; the last checkpoint is from before it; try a lower learning_rate or precision fp32"
        ) from e

    label, known = np.asarray(patients.label) > 0.5, np.asarray(patients.label_known).astype(bool)
    rows = {
        "macro_auroc": [macro_auroc(p, label, known) for p in probability.double().numpy()],
        "log_loss": [log_loss(p, patients.label, patients.label_known, model.labels) for p in probability],
    }
    rows = {name: values for name, values in rows.items() if not np.isnan(values).any()}
    metrics = {name: float(np.mean(values)) for name, values in rows.items()}
    for name, values in rows.items():
        metrics |= {f"{name}@{rate:g}": value for rate, value in zip(missing, values, strict=True)}
    return metrics


def choose_answer(
    model: DiagnosisModel,
    accelerator: Accelerator,
    patients: PackedPatients,
    missing: Sequence[float],
    *,
    batch_size: int,
    seed: int,
) -> dict[str, float]:
    """Sets the answer of the model to the one of least log loss under the masks of `validate`, of equal ones
    the first; returns the log loss of each (`tempered_log_loss`)."""
    found = tempered_log_loss(
        model, accelerator, patients, missing, model.answers, batch_size=batch_size, seed=seed
    )
    model.answer = min(found, key=lambda answer: found[answer])
    return found


def tempered_log_loss(
    model: DiagnosisModel,
    accelerator: Accelerator,
    patients: PackedPatients,
    missing: Sequence[float],
    answers: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    weight: np.ndarray | None = None,
) -> dict[str, float]:
    """The log loss of some of the model's answers under the masks of `validate`, the mean over patients of
    whom anything is left and, where `weight` [n] is given, over the population.

    Each has the temperature that suits it best on these patients: a mean over draws is less sure than a head,
    and would win for that alone, which a temperature does better.
    """

    def logits(answer: str) -> Ask:
        said = partial(model.say, answer, draws=model.config.draws, seed=seed)
        return lambda view: said(view).logits.double().movedim(-2, 0)  # [B, C] or [B, S, C]

    asks = [lambda view: view.m.sum(1), *map(logits, answers)]
    visible, *said = _under_masks(
        model, accelerator, patients, missing, asks, batch_size=batch_size, seed=seed
    )
    people = {patient.person: i for i, patient in enumerate(patients.patients)}
    person = torch.tensor([people[patient.person] for patient in patients.patients])
    counted = np.ones(len(patients)) if weight is None else np.asarray(weight, dtype=np.float64)
    n = len(missing)
    label, known, person = patients.label.repeat(n, 1), patients.label_known.repeat(n, 1), person.repeat(n)
    how = model.labels, model.log_weight.double().cpu()
    found = {}
    for answer, each in zip(answers, said, strict=True):
        logit = each.flatten(0, 1).movedim(0, -2)
        counts = torch.from_numpy(np.tile(counted, n))
        rows = Said(logit, visible.flatten(), label, known.bool(), person, counts)
        rows = rows.where(rows.visible > 0)  # of the others every answer is the prevalence
        found[answer] = fit_temperature(rows, len(model.task.modalities), *how).log_loss(rows, *how)
    return found


def answer_note(model: DiagnosisModel, log_loss: Mapping[str, float], n: int) -> Note:
    """Which answer the model gives, and why: the log loss of each in n patients, {} where they are few."""
    if log_loss:
        why = f": log loss in {n} patients " + ", ".join(f"{x:.3f} ({name})" for name, x in log_loss.items())
    else:
        why = f", because {n} patients validate, too few to choose by"
    return Note("answer", n, f"Answers come from the {model.answer}{why}.")


def _under_masks(
    model: DiagnosisModel,
    accelerator: Accelerator,
    patients: PackedPatients,
    missing: Sequence[float],
    asks: Sequence[Ask],
    *,
    batch_size: int,
    seed: int,
) -> list[Tensor]:
    """What each of `asks` says [B, ...] of all patients under the masks of each rate -> [rates, n, ...]."""
    u = torch.rand(patients.presence.shape, generator=torch.Generator().manual_seed(seed))
    mine = np.arange(accelerator.process_index, len(patients), accelerator.num_processes)
    found: list[tuple[np.ndarray, list[Tensor]]] = []
    with evaluating(model), accelerator.autocast():
        for index in np.array_split(mine, max(1, round(len(mine) / batch_size))) if len(mine) else ():
            encoded = model.encode(tensors(patients.take(index), accelerator.device))
            views = [encoded.keep((u[index] >= p).to(accelerator.device)) for p in missing]
            found.append((index, [torch.stack([ask(view) for view in views]).cpu() for ask in asks]))
    gathered = gather_object(found)
    order = np.argsort(np.concatenate([index for index, _ in gathered]))
    return [torch.cat(parts, dim=1)[:, order] for parts in zip(*(said for _, said in gathered), strict=True)]


def log_loss(probability: Tensor, label: Tensor, known: Tensor, labels: Labels) -> float:
    """-log p of the true class, the mean over patients whose label is known; for many labels the
    binary one, the mean over known cells. All tensors [n, C]. NaN if nothing is known; ValueError for
    what is no probability."""
    check_probability("log_loss", probability)
    return float(labels.surprise(probability.double().clamp(EPS, 1 - EPS), label, known).mean())
