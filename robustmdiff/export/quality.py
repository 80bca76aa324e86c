"""How good a form of a run is, and whether fewer digits made it worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustmdiff.answer import Answer
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.ranking import macro_auroc
from robustmdiff.refusal import Refusal

AUROC, COVERAGE = 0.002, 0.01  # that a precision may change

Diagnose = Callable[[Sequence[Patient]], list[Answer]]


class Quality(NamedTuple):
    """Macro AUROC, and the share of those known to have a class that have it in their set."""

    auroc: float
    coverage: float


def quality(answers: Sequence[Answer], patients: Sequence[Patient], task: Task) -> Quality:
    """Of what was answered about these patients."""
    bare = [Patient(p.id, {}, labels=p.labels, source=p.source) for p in patients]
    batch = Collator(task)(bare)
    label, known = np.asarray(batch.label) > 0.5, np.asarray(batch.label_known)
    p = np.array([list(answer.probability.values()) for answer in answers])
    held = np.array([[name in answer.prediction for name in task.classes] for answer in answers])
    has = label & known
    return Quality(macro_auroc(p, label, known), float(held[has].mean()))


def check_changed(changed: Quality, folder: str | Path) -> None:
    """Raises Refusal for a form that is another model than the run: better by chance is not the same."""
    if not (abs(changed.auroc) <= AUROC and abs(changed.coverage) <= COVERAGE):
        raise Refusal(
            f"{folder}: macro AUROC changes by {changed.auroc:+.4f} and coverage by {changed.coverage:+.3f}, "
            f"expected at most {AUROC} and {COVERAGE}; export in a precision with more digits"
        )
