"""Batches of arrays as batches of tensors, and parts of them: where data meets a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustmdiff.data.batch import Batch


def tensors(batch: Batch[Any], device: torch.device | str = "cpu") -> Batch[Tensor]:
    """The batch, of arrays or of tensors, as tensors on a device. What is there already is not copied:
    on the CPU an array and its tensor share their memory."""

    def move(array: Any) -> Tensor:
        tensor = array if isinstance(array, Tensor) else torch.from_numpy(array)
        return tensor.to(device, non_blocking=True)

    return Batch(
        ids=batch.ids,
        presence=move(batch.presence),
        inputs={name: type(packed)(*map(move, packed)) for name, packed in batch.inputs.items()},
        label=move(batch.label),
        label_known=move(batch.label_known),
        findings=move(batch.findings),
        findings_known=move(batch.findings_known),
    )


def hide(batch: Batch[Tensor], kept: Tensor) -> Batch[Tensor]:
    """The batch without what is not kept, bool [B, M]: it is absent, as what never was there."""
    inputs = {
        name: take(packed, kept[packed.rows, i].nonzero()[:, 0])
        for i, (name, packed) in enumerate(batch.inputs.items())
    }
    return replace(batch, presence=batch.presence & kept, inputs=inputs)


def take(packed: Any, chosen: Tensor) -> Any:
    """Those of the observations (`Input`) that stand at `chosen`, int64 [k], in this order."""
    if not hasattr(packed, "lengths"):
        return type(packed)(*(tensor[chosen] for tensor in packed))
    rows, *flat, lengths = packed
    start = (lengths.cumsum(0) - lengths)[chosen]
    lengths = lengths[chosen]
    first = lengths.cumsum(0) - lengths
    token = torch.arange(int(lengths.sum()), device=lengths.device)
    token = token + torch.repeat_interleave(start - first, lengths)
    return type(packed)(rows[chosen], *(x[token] for x in flat), lengths)
