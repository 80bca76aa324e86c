"""Which model answered, as a report has to record it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from robustmdiff.answer import Answer
    from robustmdiff.predictor import Predictor

PRODUCT = "RobustMDiff"
# What decides a run's answers: `cat` of those that are there, in this order, and `sha256sum` give `digest`.
DECIDING = ("model/model.safetensors", "model/forecast.safetensors", "conformal.json", "abstention.json")


class ModelRecord(NamedTuple):
    """What has to be known of a model to find it again.

    name        of the kind of model ("RobustMDiff")
    version     of this package
    sha256      of its weights and calibration, hexadecimal
    modalities  that it reads, in the task's order
    level       the share of patients whose class its prediction sets are to hold
    """

    name: str
    version: str
    sha256: str
    modalities: tuple[str, ...]
    level: float

    def used(self, answer: Answer) -> tuple[str, ...]:
        """The modalities that an answer of this model rests on."""
        return tuple(name for name in self.modalities if name not in answer.missing)


def record_of(predictor: Predictor) -> ModelRecord:
    from robustmdiff import __version__

    run = predictor.run
    return ModelRecord(
        name=type(run.model).__name__,
        version=__version__,
        sha256=digest(run.folder),
        modalities=predictor.task.modality_names,
        level=1 - run.conformal.alpha,
    )


def digest(folder: Path) -> str:
    """SHA-256 of the files of a run that decide its answers."""
    found = hashlib.sha256()
    for name in DECIDING:
        if (folder / name).exists():
            found.update((folder / name).read_bytes())
    return found.hexdigest()
