"""Which model answered, as a report has to record it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from robustmdiff.answer import Answer
    from robustmdiff.predictor import Predictor

PRODUCT = "RobustMDiff"


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
    """What a report says of the model behind a predictor."""
    from robustmdiff import __version__
    from robustmdiff.experiment.run import digest

    run = predictor.run
    return ModelRecord(
        name=type(run.model).__name__,
        version=__version__,
        sha256=digest(run.folder),
        modalities=predictor.task.modality_names,
        level=1 - run.conformal.alpha,
    )
