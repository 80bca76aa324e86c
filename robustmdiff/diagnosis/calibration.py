"""Calibration: how sure to be, prediction sets and when to abstain, from patients whom training has not seen.

What is calibrated here is kept with the model, and is what `predict` and `explain` say and what
`evaluate` scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from robustmdiff.data.batch import Batch
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.asking import BATCH, encode, evaluating, under
from robustmdiff.diagnosis.contract import DRAWS, DiagnosisModel
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.diagnosis.subsets import first_of_each, of_every_size
from robustmdiff.diagnosis.temperature import Said, fit_temperature, held_out
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.ranking import Array, Bools

Collate = Callable[[Sequence[Patient]], Batch]

ALPHA = 0.1  # nine of ten patients find their class in the set
ENOUGH_FOR_MEANS = 256  # training patients whose latents tell what is usual


class Calibration(NamedTuple):
    """What a model may claim. abstention is None for a model that has no latent to look at."""

    sets: ConformalSets
    abstention: Abstention | None

    def save(self, folder: Path) -> None:
        if self.abstention is not None:
            self.abstention.save(folder / "abstention.json")
        self.sets.save(folder / "conformal.json")  # last: with it a run is finished

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises Refusal for a damaged file, OSError where there is none."""
        abstention = folder / "abstention.json"
        return cls(
            ConformalSets.load(folder / "conformal.json"),
            Abstention.load(abstention) if abstention.exists() else None,
        )


def calibrate(
    model: DiagnosisModel,
    calibration: Sequence[Patient],
    training: Sequence[Patient],
    collator: Collate,
    weight: np.ndarray | None = None,
) -> Calibration:
    """Ask a model about the calibration patients under subsets of what they have (`of_every_size`), each
    patient once per pattern, with as many draws as it answers with: those of its config.

    Sets the model's temperature. Its prediction sets are calibrated on probabilities that the temperature of
    other calibration patients gave: on the patients it was fitted on, a temperature flatters itself.
    `training` patients tell what is usual, for abstention. `weight` [calibration patients] leads back to the
    population where rare classes are enriched. The model stays on its device and in its mode.
    """
    if weight is not None and len(weight) != len(calibration):
        raise ValueError(f"calibrate: weight has {len(weight)} numbers, expected {len(calibration)}")
    with evaluating(model):
        said, presence = _ask(model, calibration, collator, weight)
        return Calibration(
            _sets(model, said, _temper(model, said), presence),
            _abstention(model, calibration, training, collator),
        )


def _ask(
    model: DiagnosisModel, patients: Sequence[Patient], collator: Collate, weight: np.ndarray | None
) -> tuple[Said, Bools]:
    """What the model says as it was trained, and the presence bool [n, M] that each row belongs to."""

    def logits(view: Encoded) -> Tensor:
        said = model.say(model.answer, view, draws=model.config.draws)
        return said.logits.movedim(-2, 0)  # [B, C] or [B, S, C]

    weights = np.ones(len(patients)) if weight is None else np.asarray(weight, dtype=np.float64)
    number: dict[str, int] = {}  # filled in one pass: patients may be read from disk each time
    rows: list[list[np.ndarray]] = []
    for encoded, batch, left, new, people in _views("calibrate answers", model, patients, collator):
        at = np.nonzero(new)[1]
        said, visible = (under(encoded, left, ask)[new] for ask in (logits, lambda view: view.m.sum(1)))
        label, known = np.asarray(batch.label)[at], np.asarray(batch.label_known)[at]
        person = np.array([number.setdefault(name, len(number)) for name in people])[at]
        counted = weights[BATCH * len(rows) :][at]
        rows.append([left[new], said, visible.astype(int), label, known, person, counted])
    presence, logit, *rest = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Said(torch.from_numpy(logit).movedim(0, -2), *map(torch.from_numpy, rest)), presence


def _temper(model: DiagnosisModel, said: Said) -> Array:
    """Sets the model's temperature; returns what it says of these rows, float64 [n, C], each with the
    temperature that other people gave."""
    how = len(model.task.modalities), model.labels, model.log_weight.double().cpu()
    for own, fitted in zip((model.temperature, model.undone), fit_temperature(said, *how), strict=True):
        own.copy_(fitted.to(own.device))
    prevalence = torch.tensor(model.task.prevalence, dtype=torch.float64)
    return held_out(said, *how).where((said.visible > 0)[:, None], prevalence).numpy()


def _sets(model: DiagnosisModel, said: Said, probability: Array, presence: Bools) -> ConformalSets:
    task = model.task
    label, known, person, weight = (column.numpy() for column in said[2:])
    return ConformalSets.fit(
        probability,
        label,
        presence,
        ALPHA,
        known=known,
        labels=task.labels,
        rare=[name in task.rare for name in task.classes],
        person=person,
        weight=weight,
    )


def _abstention(
    model: DiagnosisModel, calibration: Sequence[Patient], training: Sequence[Patient], collator: Collate
) -> Abstention | None:
    new = _latents("calibrate abstention", model, calibration, collator)
    if new is None:
        return None
    usual = _latents("learn what is usual", model, training[:ENOUGH_FOR_MEANS], collator)
    assert usual is not None
    return Abstention.fit(*usual, *new)


def _latents(
    what: str, model: DiagnosisModel, patients: Sequence[Patient], collator: Collate
) -> tuple[Array, Bools] | None:
    """float64 [n, d] and the presence bool [n, M] that each belongs to; None of a model that has none."""

    def observe(view: Encoded) -> Tensor:
        latent = model.observe(view)
        assert latent is not None
        return latent

    latent, presence = [], []
    for encoded, _, left, new, _ in _views(what, model, patients, collator):
        if model.observe(encoded) is None:
            return None
        latent.append(under(encoded, left, observe)[new])
        presence.append(left[new])
    return np.concatenate(latent), np.concatenate(presence)


def _views(
    what: str, model: DiagnosisModel, patients: Sequence[Patient], collator: Collate
) -> Iterator[tuple[Encoded, Batch, Bools, Bools, list[str]]]:
    """Every batch encoded; bool [S, B, M], what each subset leaves of it; bool [S, B], whose pattern that is
    for the first time; and the persons [B]."""
    starts = range(0, len(patients), BATCH)
    for start in tqdm(starts, desc=what, unit="batch", disable=None, leave=False):
        some = patients[start : start + BATCH]
        batch = collator(some)
        left = of_every_size(np.asarray(batch.presence), seed=start)
        yield encode(model, batch), batch, left, first_of_each(left), [patient.person for patient in some]


def say_if_calibrated_otherwise(model: DiagnosisModel, draws: int | None) -> None:
    """A warning where answers are to be means over another number of draws than a model's own, for which
    its prediction sets were calibrated. Where a head answers, draws change no answer."""
    own = model.config.draws
    if model.answer == DRAWS and draws not in (None, own):
        warnings.warn(
            f"draws is {draws}, and the prediction sets were calibrated for {own}: "
            "what they promise holds for that number only",
            stacklevel=3,
        )
