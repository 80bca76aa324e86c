"""The C++ kernels behind the schema, and what they take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.knowledge_attention.schema import WRT, declare, declare_top

forward_op, backward_op = declare("")
top_op = declare_top("")
_MISSING = _native.missing(forward_op)


def reasons(q: Tensor, *_: Any) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    if q.device.type != "cpu":
        found.append(f"no kernel for {q.device.type}")
    if _MISSING is not None:
        found.append(_MISSING)
    if q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    return found


run = differentiable(
    "knowledge_attention", forward_op, backward_op, wrt=WRT, outputs=(True, False), keep_outputs=True
)
