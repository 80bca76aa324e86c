"""The C++ kernels behind the schema, and what they take."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.knowledge_attention import dense
from robustmdiff.ops.knowledge_attention.arguments import Arguments
from robustmdiff.ops.knowledge_attention.schema import SCHEMA, top_operator

forward_op, backward_op, run = SCHEMA.operators("")
top_op = top_operator("")
_MISSING = _native.missing(forward_op)


def reasons(a: Arguments) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    if not a.q.is_cpu:
        found.append(f"no kernel for {a.q.device.type}")
    if _MISSING is not None:
        found.append(_MISSING)
    if a.q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    return found


def slower(a: Arguments) -> list[str]:
    """Where torch's products of large matrices are faster, and are worth the memory."""
    if not dense.pays(a):
        return []
    (N, H, d), k = a.q.shape, a.concepts.shape[0]
    return [f"torch is faster where {N * H:,} rows of width {d} read {k:,} concepts"]


def top(a: Arguments) -> tuple[Tensor, Tensor]:
    return top_op(*a)
