"""graph_attention in C++ behind the schema: what it takes, and its call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.graph_attention.schema import WRT, declare

forward_op, backward_op = declare("")
_MISSING = _native.missing(forward_op)


def reasons(q: Tensor, *_: Any) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    device = q.device.type
    if device == "cuda":
        missing = _native.missing(forward_op, "CUDA")
        found += [] if missing is None else [missing]
        if q.shape[-1] > 256:
            found.append(f"width {q.shape[-1]}, and the CUDA kernels take up to 256")
    elif device != "cpu":
        found.append(f"no kernel for {device}")
    elif _MISSING is not None:
        found.append(_MISSING)
    if q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    return found


run_on_float_bias = differentiable(
    "graph_attention", forward_op, backward_op, wrt=WRT, outputs=(True, False), keep_outputs=True
)


def run(*inputs: Any) -> tuple[Tensor, Tensor]:
    *tensors, relation_bias = inputs
    return run_on_float_bias(*tensors, None if relation_bias is None else relation_bias.float())
