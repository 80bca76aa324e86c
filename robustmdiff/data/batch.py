"""Patients side by side, packed: only what is present takes memory.

Arrays are numpy's where the collator has made them, and tensors of one device where a model reads
them (`encoders.tensors`); `A` is either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

A = TypeVar("A")


class Images(NamedTuple, Generic[A]):
    """The images of the n patients who have one; `rows` says which patients they are."""

    rows: A  # [n] int64, ascending
    pixels: A  # [n, C, H, W] float32, in the modality's own unit


class Texts(NamedTuple, Generic[A]):
    """The texts of the n patients who have one, token ids end to end (an empty text keeps its
    special tokens, so present texts never have length 0)."""

    rows: A  # [n] int64, ascending
    input_ids: A  # [sum of lengths] int64
    lengths: A  # [n] int64


class Panels(NamedTuple, Generic[A]):
    """The values of the n patients who have any panel. A cell that was not measured has
    present False and value 0; categorical fields hold the category's index."""

    rows: A  # [n] int64, ascending
    value: A  # [n, F] float32
    present: A  # [n, F] bool


Input = Images[A] | Texts[A] | Panels[A]


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
