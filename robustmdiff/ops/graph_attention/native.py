"""graph_attention in C++ behind the schema: what it takes, and its call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.graph_attention.schema import TENSORS, WRT, declare
from robustmdiff.ops.registration import differentiable

forward_op, backward_op = declare("")
_MISSING = _native.reason
if _MISSING is None and not torch._C._dispatch_has_kernel_for_dispatch_key(forward_op.name(), "CPU"):
    _MISSING = "_C.so was built before it had this op; install the package again"


def reasons(q: Tensor, *_: Any) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    device = q.device.type
    if device == "cuda":
        found += [] if _native.cuda_reason is None else [_native.cuda_reason]
        if q.shape[-1] > 256:
            found.append(f"width {q.shape[-1]}, and the CUDA kernels take up to 256")
    elif device != "cpu":
        found.append(f"no kernel for {device}")
    elif _MISSING is not None:
        found.append(_MISSING)
    if q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    return found


def _backward(grad_out: Tensor, *saved: Any) -> tuple[Tensor, ...]:
    return backward_op(grad_out.contiguous(), *saved)


_run = differentiable(forward_op, _backward, TENSORS, WRT)


def run(q: Tensor, k: Tensor, v: Tensor, *graph_and_bias: Any) -> tuple[Tensor, Tensor]:
    *graph, relation_bias = graph_and_bias
    if relation_bias is not None:
        relation_bias = relation_bias.float().contiguous()
    return _run(q.contiguous(), k.contiguous(), v.contiguous(), *graph, relation_bias)
