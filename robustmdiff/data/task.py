"""What is to be diagnosed, from which modalities."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from reprlib import repr as brief
from typing import Any

from robustmdiff.data.kinds import KINDS
from robustmdiff.data.modality import Modality, is_number
from robustmdiff.data.names import check_names
from robustmdiff.labels import Labels, labels_of
from robustmdiff.refusal import Refusal

ROUNDED = 0.01  # what the prevalences may miss of 1: thirds are written .33


@dataclass(frozen=True)
class Task:
    """What is to be diagnosed, from what.

    classes     in label order; with `multilabel` each is its own yes or no.
    prevalence  of each class in the population, same order (sums to 1 unless multilabel).
    rare        the classes that count as rare in every table.
    findings    names of findings that may be labelled and serve as concepts.
    """

    modalities: tuple[Modality, ...]
    classes: tuple[str, ...]
    prevalence: tuple[float, ...]
    multilabel: bool = False
    rare: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise Refusal("Task: classes are none, expected at least one")
        for what in ("classes", "rare", "findings"):
            check_names(getattr(self, what), f"Task: {what}")
        _check_prevalence(self)
        unknown = sorted(set(self.rare) - set(self.classes))
        if unknown:
            raise Refusal(f"Task: rare names {unknown}, expected some of the classes {self.classes}")
        names = self.modality_names
        if not names:
            raise Refusal("Task: modalities are none, expected at least one")
        for modality in self.modalities:
            check_kind(modality)
        # Some name files, and there are file systems that do not tell case.
        check_names([name.casefold() for name in names], "Task: modalities")

    @property
    def labels(self) -> Labels:
        """How the classes of a patient hang together."""
        return labels_of(self.multilabel)

    @property
    def modality_names(self) -> tuple[str, ...]:
        return tuple(modality.name for modality in self.modalities)

    def of_kind(self, kind: str) -> tuple[Modality, ...]:
        return tuple(modality for modality in self.modalities if modality.kind == kind)

    def to_json(self) -> dict[str, Any]:
        """In JSON's types; `task_file.task_from` reads it."""
        return json.loads(json.dumps(asdict(self)))

    def modality(self, name: str) -> Modality:
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise KeyError(f"unknown modality {name!r}, expected one of {', '.join(self.modality_names)}")


def check_kind(modality: Modality) -> None:
    """ValueError for a modality of an unknown kind, and for one that its kind cannot mean."""
    where = f"Modality {modality.name!r}"
    if modality.kind not in KINDS:
        *others, last = map(repr, KINDS)
        raise Refusal(f"{where}: kind is {modality.kind!r}, expected {', '.join(others)} or {last}")
    kind = KINDS[modality.kind]
    for name in ("shape", "channels", "fields"):
        given = getattr(modality, name)
        if given and name not in kind.settings:
            raise Refusal(f"{where}: {name} is {brief(given)}, expected none: its kind is {modality.kind!r}")
    kind.check(modality, where)


def _check_prevalence(task: Task) -> None:
    prevalence = task.prevalence
    if len(prevalence) != len(task.classes) or not all(is_number(p) and 0 <= p <= 1 for p in prevalence):
        raise Refusal(f"Task: prevalence is {prevalence}, expected {len(task.classes)} numbers in [0, 1]")
    if task.labels.exclusive and abs(sum(prevalence) - 1) > ROUNDED:
        raise Refusal(
            f"Task: prevalence is {prevalence}, which sums to {sum(prevalence):g}, expected 1: a patient has "
            "one of the classes (unless multilabel)"
        )
