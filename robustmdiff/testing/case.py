"""One situation of an op: its inputs, the call, and the same in plain torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DEVICE = os.environ.get("RMD_TEST_DEVICE", "cpu")


@dataclass
class Case:
    """One call of an op, in float64: `run(**tensors)` is ours, `plain(**tensors)` the same in
    dense torch, in the dtype of what it is given. The result has the shape of the first tensor.

    `plain` is written apart from the definition: it takes float64 for an exact answer at any size, and the
    dtype at hand for what plain torch makes of it.
    """

    op: str
    name: str
    tensors: dict[str, Tensor]
    run: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    absent: dict[str, Tensor]  # by tensor, the rows never read
    silent: Tensor  # the rows of the result that are 0 and have no gradient

    def at(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: x.to(DEVICE, dtype).requires_grad_() for name, x in self.tensors.items()}


def draw(*shape: int, seed: int) -> Tensor:
    """Standard normal float64, the same for the same seed."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
