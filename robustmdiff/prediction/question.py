"""What the answers to a question depend on, as it is compared before a resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import robustmdiff
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.predictor import Predictor

DECIDES = ("model/**/*", "conformal.json", "abstention.json")  # the answers of a run


def question(
    predictor: Predictor, patients: Iterable[Patient], *, draws: int | None, seed: int, batch: int
) -> dict[str, Any]:
    """What decides the answers: the run and the patients (of a picture its path) by their SHA-256, how many
    records there are, and the options. Reads the patients once, one by one."""
    digest, records = _of_patients(patients)
    return {
        "run": _of_run(predictor.run.folder),
        "patients": digest,
        "records": records,
        "draws": predictor.run.model.config.draws if draws is None else draws,
        "seed": seed,
        "batch": batch,
        "device": predictor.device.type,
        "version": robustmdiff.__version__,
    }


def _of_run(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(path for name in DECIDES for path in folder.glob(name) if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        sha.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return sha.hexdigest()


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
