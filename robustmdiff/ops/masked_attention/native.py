"""The C++ kernels behind the schema: what they take, and their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.masked_attention.schema import TENSORS, WRT, declare
from robustmdiff.ops.registration import differentiable


def reasons(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    if q.device.type != "cpu":
        found.append(f"no kernel for {q.device.type}")
    elif _native.reason is not None:
        found.append(_native.reason)
    if q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    if key is not None:
        found.append("dropout, which the kernels do not draw")
    return found


forward_op, backward_op = declare("")
run: Any = differentiable(forward_op, backward_op, TENSORS, WRT)
