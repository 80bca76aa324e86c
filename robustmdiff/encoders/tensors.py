"""Batches of arrays as batches of tensors: where data meets a model."""

from __future__ import annotations

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
