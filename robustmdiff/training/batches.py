"""Patients as batches: packed once where memory allows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from robustmdiff.data.batch import Batch, Input
from robustmdiff.data.patient import Patient
from robustmdiff.encoders.tensors import take, tensors

CHUNK = 64  # patients collated at once


class PackedPatients:
    """All patients of a split, checked by the collator before training starts.

    They are packed once and batches are then gathered from memory, if their tensors fit into
    `cache_gb`; otherwise every batch is collated anew. presence [n, M], label and label_known
    [n, C] are kept in either case.
    """

    def __init__(
        self,
        patients: Sequence[Patient],
        collator: Callable[[Sequence[Patient]], Batch],
        cache_gb: float,
        quiet: bool = True,
    ) -> None:
        self.patients, self.collator = patients, collator
        chunks: list[Batch] = []
        kept, size = True, 0
        starts = range(0, max(len(patients), 1), CHUNK)
        for start in tqdm(starts, desc="packing patients", disable=True if quiet else None, leave=False):
            chunk = tensors(collator([patients[i] for i in range(start, min(start + CHUNK, len(patients)))]))
            size += sum(t.nbytes for packed in chunk.inputs.values() for t in packed)
            if size > cache_gb * 2**30:
                kept = False
            if not kept:
                for done in [*chunks, chunk]:
                    done.inputs.clear()
            chunks.append(chunk)
        self.ids = tuple(id for chunk in chunks for id in chunk.ids)
        self.presence, self.label, self.label_known, self.findings, self.findings_known = (
            torch.cat([getattr(chunk, name) for chunk in chunks])
            for name in ("presence", "label", "label_known", "findings", "findings_known")
        )
        self.inputs: dict[str, Input] = {}
        self._position: dict[str, Tensor] = {}  # [n], where a patient stands among those who have it
        for name in list(chunks[0].inputs) if kept else ():
            packed = _join([chunk.inputs.pop(name) for chunk in chunks], [len(chunk) for chunk in chunks])
            self.inputs[name] = packed
            self._position[name] = torch.full((len(self.ids),), -1)
            self._position[name][packed.rows] = torch.arange(len(packed.rows))

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, n: int = 1024) -> Batch:
        """Everybody where they are packed, else the first n: to learn the scales of values from."""
        if not self.inputs:
            return tensors(self.collator([self.patients[i] for i in range(min(n, len(self)))]))
        return Batch(
            self.ids,
            self.presence,
            self.inputs,
            self.label,
            self.label_known,
            self.findings,
            self.findings_known,
        )

    def take(self, index: np.ndarray) -> Batch:
        """The patients at these places, int64 [B], in this order; a place may repeat."""
        if not self.inputs:
            return tensors(self.collator([self.patients[i] for i in index.tolist()]))
        at = torch.from_numpy(index)
        return Batch(
            ids=tuple(self.ids[i] for i in index.tolist()),
            presence=self.presence[at],
            inputs={name: _gather(self.inputs[name], self._position[name][at]) for name in self.inputs},
            label=self.label[at],
            label_known=self.label_known[at],
            findings=self.findings[at],
            findings_known=self.findings_known[at],
        )


def check_patients(train_set: PackedPatients, valid_set: PackedPatients) -> str:
    """Refuses a patient on both sides; a short description that tells sets of patients apart."""
    both = sorted(set(train_set.ids) & set(valid_set.ids))
    if both:
        raise ValueError(
            f"train: patient {both[0]!r} is in patients_train and in patients_valid ({len(both)} such), "
            "expected different patients"
        )
    digest = hashlib.sha256("\n".join(train_set.ids).encode()).hexdigest()[:12]
    return f"{len(train_set)} patients, digest {digest}"


def _join(parts: Sequence[Any], sizes: Sequence[int]) -> Input:
    """Packed inputs of consecutive patients as one."""
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()
    rows = torch.cat([part.rows + offset for part, offset in zip(parts, offsets, strict=True)])
    return type(parts[0])(rows, *(torch.cat(tensors) for tensors in list(zip(*parts, strict=True))[1:]))


def _gather(packed: Input, position: Tensor) -> Input:
    """The packed inputs of the patients at `position` (-1: has none)."""
    rows = (position >= 0).nonzero().squeeze(1)
    return take(packed, position[rows])._replace(rows=rows)
