"""A task with a modality of each kind, and what one of its notes says."""

from __future__ import annotations

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.explanation.attribution import attribute, read

XRAY = Modality("xray", "image", shape=(2, 16, 24), window=(-3.0, 3.0))
NOTE = Modality("note", "text")
LABS = Modality(
    "labs",
    "values",
    fields=(
        Field("CRP", "mg/L", (0.0, 10.0)),
        Field("sex", categories=("female", "male", "other")),
        Field("age", "years"),
        Field("smoker", categories=("no", "yes")),
    ),
)
TASK = Task((LABS, XRAY, NOTE), ("well", "ill", "worse"), (0.6, 0.3, 0.1), findings=("fever", "opacity"))
TEXT = "No new opacity; left-sided effusion, fever 39.5 in the X-ray."


def explained(model, patient, collator, target, **options):
    return attribute(model, read(model, patient, collator), target, **options)
