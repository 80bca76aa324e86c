"""Patients side by side, packed: only what is present takes memory."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


class Images(NamedTuple):
    """The images of the n patients who have one; `rows` says which patients they are."""

    rows: Tensor  # [n] int64, ascending
    pixels: Tensor  # [n, C, H, W] float32, in the modality's own unit


class Texts(NamedTuple):
    """The texts of the n patients who have one, token ids end to end (an empty text keeps its
    special tokens, so present texts never have length 0)."""

    rows: Tensor  # [n] int64, ascending
    input_ids: Tensor  # [sum of lengths] int64
    lengths: Tensor  # [n] int64


class Panels(NamedTuple):
    """The values of the n patients who have any panel. A cell that was not measured has
    present False and value 0; categorical fields hold the category's index."""

    rows: Tensor  # [n] int64, ascending
    value: Tensor  # [n, F] float32
    present: Tensor  # [n, F] bool


Input = Images | Texts | Panels


@dataclass(frozen=True)
class Batch:
    """B patients of one task. Absent modalities take no memory and are never read.

    presence [B, M] bool, in the task's order of modalities; inputs by modality name, with
    n = 0 rows where nobody has it. label [B, C] float32 and findings [B, F] float32 hold
    0 or 1 and count only where label_known [B, C] and findings_known [B, F] say so.
    """

    ids: tuple[str, ...]
    presence: Tensor
    inputs: dict[str, Input]
    label: Tensor
    label_known: Tensor
    findings: Tensor
    findings_known: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device, non_blocking=True)
        moved["inputs"] = {
            name: type(packed)(*(t.to(device, non_blocking=True) for t in packed))
            for name, packed in self.inputs.items()
        }
        return Batch(**moved)
