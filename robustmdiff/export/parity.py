"""Whether an exported model says what the run says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustmdiff.answer import Answer
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.subsets import of_every_size
from robustmdiff.predictor import Predictor
from robustmdiff.ranking import Array
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.artefact import Artefact

TOLERANCE = 1e-4  # of a probability, in float32
ASKED = 8  # patients


class Parity(NamedTuple):
    """largest is the largest difference of a probability (of a class, of a finding, of an interval's end) in
    `views` of `people`; sets, how many prediction sets differ."""

    people: int
    views: int
    largest: float
    sets: int


def compare(predictor: Predictor, artefact: Artefact, patients: Sequence[Patient] | None = None) -> Parity:
    """Both are asked about patients, the run's own first test patients unless given, under subsets of what
    they have: every one of up to 6 modalities."""
    people = list(predictor.patients()[:ASKED] if patients is None else patients)
    views = [view for patient in people for view in views_of(patient, predictor.task.modality_names)]
    pairs = list(zip(predictor.diagnose(views), artefact.diagnose(views), strict=True))
    largest = max((_difference(*pair) for pair in pairs), default=0.0)
    sets = sum(set(ours.prediction) != set(theirs.prediction) for ours, theirs in pairs)
    return Parity(len(people), len(views), largest, sets)


def check(parity: Parity, folder: str | Path) -> None:
    """Raises Refusal for a model that says something else than the run."""
    if not parity.largest <= TOLERANCE:
        raise Refusal(
            f"{folder}: a probability differs by {parity.largest:.2g} from what the run says, expected at "
            f"most {TOLERANCE:g}; export anew"
        )


def views_of(patient: Patient, names: Sequence[str]) -> Iterator[Patient]:
    """A patient under each subset of the modalities."""
    has = np.array([patient.has(name) for name in names])
    left = of_every_size(has[None])[:, 0]
    for row in np.unique(left, axis=0):
        kept = {name: patient.modalities[name] for name, keep in zip(names, row, strict=True) if keep}
        yield replace(patient, modalities=kept)


def _difference(ours: Answer, theirs: Answer) -> float:
    """The largest of a probability; infinite where the one says something and the other nothing."""
    p, q = (_numbers(answer) for answer in (ours, theirs))
    same = ours.missing == theirs.missing and ours.unlike_training == theirs.unlike_training
    return float(np.abs(p - q).max()) if same and p.shape == q.shape else math.inf


def _numbers(answer: Answer) -> Array:
    ends = [end for interval in answer.interval.values() for end in interval]
    return np.array([*answer.probability.values(), *answer.findings.values(), *ends])
