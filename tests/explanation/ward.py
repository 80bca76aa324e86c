"""A task with a modality of each kind, and more than one of some; what a note of its patients says."""

from __future__ import annotations

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task

TASK = Task(
    (
        Modality("xray", "image", shape=(1, 16, 24), window=(0.0, 1.0)),
        Modality("ct", "image", shape=(3, 24, 16), window=(-1000.0, 500.0), cost=6.0),
        Modality("mri", "image", shape=(2, 16, 16), channels=("T1w", "<T2w>"), cost=10.0),
        Modality("note", "text"),
        Modality(
            "labs",
            "values",
            fields=(
                Field("CRP", "mg/L", (0.0, 10.0)),
                Field("sodium", "mmol/L", (135.0, 145.0)),
                Field("sex", categories=("female", "male")),
                Field("age", "years"),
            ),
        ),
        Modality("genes", "values", fields=(Field("MBL2", categories=("wild", "variant")),), cost=8.0),
    ),
    ("well", "pneumonia", "vasculitis"),
    (0.6, 0.35, 0.05),
    rare=("vasculitis",),
    findings=("fever", "opacity"),
)
NOTE = "Fever since Monday;\n\n  no opacity  in the left lung."
