"""What there is of patients, counted: to compare with what one expects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task

Rows = list[dict[str, Any]]


class Counts(NamedTuple):
    """patients    records
    people      persons whose records they are
    labelled    records of which some class is known
    classes     a row for each class: how many have it
    modalities  a row for each modality: how many have it
    sites       a row for each site: how many come from there
    """

    patients: int
    people: int
    labelled: int
    classes: Rows
    modalities: Rows
    sites: Rows


def counts(patients: Sequence[Patient], task: Task) -> Counts:
    """Counts of `patients`, in the order of the task."""
    sites = Counter(patient.site for patient in patients if patient.site is not None)
    return Counts(
        patients=len(patients),
        people=len({patient.person for patient in patients}),
        labelled=sum(bool(patient.labels) for patient in patients),
        classes=[
            {
                "class": name,
                "prevalence": round(prevalence, 4),
                "patients": sum(bool(patient.labels.get(name)) for patient in patients),
                "rare": name in task.rare,
            }
            for name, prevalence in zip(task.classes, task.prevalence, strict=True)
        ],
        modalities=[
            {"modality": m.name, "kind": m.kind, "present": sum(p.has(m.name) for p in patients)}
            for m in task.modalities
        ],
        sites=[{"site": name, "patients": count} for name, count in sites.most_common()],
    )
