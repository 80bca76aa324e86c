"""How kernels are launched: on the device of their tensors, with the configuration of its architecture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import torch
import triton
from torch import Tensor

T = TypeVar("T")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Set in words wherever a kernel is launched: Triton 3.10 changes the default, and results with it.
OPTIONS = {"enable_fp_fusion": True}


class Config(NamedTuple):
    """The tile of a kernel and how it runs."""

    rows: int
    columns: int
    warps: int
    stages: int


def of_architecture(table: Mapping[int | None, T]) -> T:
    """The entry for the compute capability that a kernel launched now is compiled for (80, 90, 120), or
    else that of None."""
    found = int(triton.runtime.driver.active.get_current_target().arch)
    return table[found] if found in table else table[None]


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(tensor)


def checking() -> bool:
    """RMD_CHECK=1: kernels assert on the device what the CPU checks on the host."""
    return os.environ.get("RMD_CHECK") == "1"


def rows_contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors with their innermost axis contiguous, copied only where it is not."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)
