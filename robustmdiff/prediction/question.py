"""What the answers to a question depend on, as it is compared before a resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

import robustmdiff
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.experiment.run import digest
from robustmdiff.predictor import Predictor


def question(
    predictor: Predictor, patients: Iterable[Patient], *, draws: int | None, seed: int, batch: int
) -> dict[str, Any]:
    """What decides the answers: the run and the patients (of a picture its path) by their SHA-256, how many
    records there are, and the options. Reads the patients once, one by one."""
    people, records = _of_patients(patients)
    return {
        "run": digest(predictor.run.folder),
        "patients": people,
        "records": records,
        "draws": predictor.run.model.config.draws if draws is None else draws,
        "seed": seed,
        "batch": batch,
        "device": predictor.device.type,
        "version": robustmdiff.__version__,
    }


def _of_patients(patients: Iterable[Patient]) -> tuple[str, int]:
    sha, records = hashlib.sha256(), 0
    for patient in patients:
        observed = {name: _said(each) for name, each in patient.modalities.items()}
        sha.update(repr((patient.id, observed)).encode("utf-8", "surrogatepass"))
        records += 1
    return sha.hexdigest(), records


def _said(observed: Observation | None) -> object:
    if isinstance(observed, ImageFile):
        return os.path.abspath(observed.path)
    if isinstance(observed, np.ndarray):
        return observed.shape, hashlib.sha256(observed.tobytes()).hexdigest()
    return observed
