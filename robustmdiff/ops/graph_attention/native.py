"""graph_attention in C++ behind the schema: what it takes, and its call."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.graph_attention.arguments import Arguments
from robustmdiff.ops.graph_attention.schema import SCHEMA

forward_op, backward_op, run_on_float_bias = SCHEMA.operators("")
_MISSING = _native.missing(forward_op)


def reasons(a: Arguments) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    if a.q.is_cuda:
        missing = _native.missing(forward_op, "CUDA")
        found += [] if missing is None else [missing]
        if a.q.shape[-1] > 256:
            found.append(f"width {a.q.shape[-1]}, and the CUDA kernels take up to 256")
    elif not a.q.is_cpu:
        found.append(f"no kernel for {a.q.device.type}")
    elif _MISSING is not None:
        found.append(_MISSING)
    if a.q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    return found


def run(a: Arguments) -> tuple[Tensor, Tensor]:
    return run_on_float_bias(
        a if a.relation_bias is None else a._replace(relation_bias=a.relation_bias.float())
    )
