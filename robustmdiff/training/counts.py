"""How many patients have each class, and what follows for what can be learned of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from robustmdiff.training.notes import Note

FEW = 10  # patients, of whom a class can hardly be told from chance


class Counts(NamedTuple):
    """positive, negative  [C], patients known to have each class and known not to
    patients            of whom any class is known"""

    positive: list[int]
    negative: list[int]
    patients: int

    @property
    def contrasts(self) -> list[tuple[int, int]]:
        """(positive, negative) of the classes that have patients of both kinds, which an AUROC needs."""
        return [(a, b) for a, b in zip(self.positive, self.negative, strict=True) if a and b]

    def __str__(self) -> str:
        """What a macro AUROC of these patients is a mean of."""
        return f"{self.patients} patients, {len(self.contrasts)} of {len(self.positive)} classes"


def count(label: Tensor, label_known: Tensor) -> Counts:
    """label and label_known [n, C] as in `Batch`."""
    known = label_known.bool()
    positive = (label > 0.5) & known
    negative = known & ~positive
    return Counts(positive.sum(0).tolist(), negative.sum(0).tolist(), int(known.any(1).sum()))


def rare_notes(classes: Sequence[str], counts: Counts) -> list[Note]:
    """Which classes have few training patients, and which none."""
    rarest = sorted(zip(counts.positive, classes, strict=True), key=lambda pair: pair[0])
    few = [(n, name) for n, name in rarest if 0 < n < FEW]
    unseen = [repr(name) for n, name in rarest if n == 0]
    notes = []
    if few:
        listed = ", ".join(f"{name!r} ({n})" for n, name in few)
        notes.append(Note("few", few[0][0], f"Fewer than {FEW} training patients have {listed}."))
    if unseen:
        nothing = f"No training patient has {', '.join(unseen)}: nothing can be learned about it from data."
        notes.append(Note("unseen", 0, nothing))
    return notes
