"""The C++ and CUDA kernels behind the schema, and what they take."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.ddpm.fused import backends
from robustmdiff.ops.ddpm.schema import declare

operators = declare("")
_MISSING = _native.missing(operators.step)


def takes(sample: Tensor) -> list[str]:
    """Why the kernels cannot take a sample of this dtype and device."""
    found = []
    if not (sample.is_cpu or sample.is_cuda):
        found.append(f"no kernel for {sample.device.type}")
    missing = _native.missing(operators.step, "CUDA") if sample.is_cuda else _MISSING
    if missing is not None:
        found.append(missing)
    if sample.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    return found


step, noise, noise_loss = backends("native", operators, takes)
