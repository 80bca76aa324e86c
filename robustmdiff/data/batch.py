"""Patients side by side, packed: only what is present takes memory.

Arrays are numpy's where the collator has made them, and tensors of one device where a model reads
them (`encoders.tensors`); `A` is either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class Input(Protocol[A_co]):
    """The observations of the n patients who have a modality: a NamedTuple of arrays [n, ...], of which
    `data.kinds` has one for each kind. Where the last is `lengths`, int64 [n], the others are end to end, so
    many for each patient."""

    @property
    def rows(self) -> A_co:
        """int64 [n], ascending: which patients of the batch they are."""
        ...

    def __iter__(self) -> Iterator[A_co]: ...


@dataclass(frozen=True)
class Batch(Generic[A]):
    """B patients of one task. Absent modalities take no memory and are never read.

    presence [B, M] bool, in the task's order of modalities; inputs by modality name, with
    n = 0 rows where nobody has it. label [B, C] float32 and findings [B, F] float32 hold
    0 or 1 and count only where label_known [B, C] and findings_known [B, F] say so.
    """

    ids: tuple[str, ...]
    presence: A
    inputs: dict[str, Input[A]]
    label: A
    label_known: A
    findings: A
    findings_known: A

    def __len__(self) -> int:
        return len(self.ids)
