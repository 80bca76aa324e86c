"""What every Triton backend needs of its tensors. Triton itself is imported when a kernel first runs.

A backend on Triton is `ops/<op>/triton_backend.py`: the operators `<op>_fwd_triton` and `<op>_bwd_triton`
of the op's one schema, which import `robustmdiff.kernels.<op>` inside their first call, and `reasons`,
which asks here first.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

# Triton reads this when a kernel is decorated, so it cannot change within a process.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_MISSING = find_spec("triton") is None
_WIDEST = 256


def reasons(tensor: Tensor, width: int = 1) -> list[str]:
    """Why no Triton kernel can take tensors of this dtype and device, whose innermost axis is `width`."""
    found = []
    if _MISSING:
        found.append("triton is not installed (pip install 'robustmdiff[triton]')")
    device = tensor.device.type
    if device == "cpu" and not INTERPRETED:
        found.append("the tensors are on the CPU; Triton only interprets there (TRITON_INTERPRET=1)")
    elif device not in ("cpu", "cuda"):
        found.append(f"no Triton kernel for {device}")
    elif device == "cuda" and torch.cuda.get_device_capability(tensor.device) < (8, 0):
        found.append("the kernels need an NVIDIA GPU of compute capability 8.0 or higher")
    if tensor.dtype == torch.float64:
        found.append("float64 is not supported, cast to float32")
    if tensor.dtype == torch.bfloat16 and INTERPRETED:
        found.append("the Triton interpreter computes bfloat16 wrongly, use float16 or float32 in it")
    if width > _WIDEST:
        found.append(f"the width is {width}, expected at most {_WIDEST}")
    return found
