"""The C++ kernels behind the schema, and what they take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.knowledge_attention.schema import TENSORS, WRT, declare, declare_top
from robustmdiff.ops.registration import differentiable

forward_op, backward_op = declare("")
top_op = declare_top("")
_MISSING = _native.reason
if _MISSING is None and not torch._C._dispatch_has_kernel_for_dispatch_key(forward_op.name(), "CPU"):
    _MISSING = "_C.so was built before it had this op; install the package again"


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


def _packed(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.contiguous() for x in tensors)


def _checked(op: Any, *args: Any) -> Any:
    """The kernels look at the values of log_prior; the stable ABI has no ValueError to raise."""
    try:
        return op(*args)
    except RuntimeError as error:
        _, named, message = str(error).partition("knowledge_attention: log_prior[")
        if not named:
            raise
        raise ValueError(named + message) from None


def forward(q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    return _checked(forward_op, *_packed(q, concepts, log_prior), scale)


def backward(grad_out: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, scale = inputs
    return backward_op(*_packed(grad_out, out, lse, *tensors), scale)


def top(q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float, n: int) -> tuple[Tensor, Tensor]:
    return _checked(top_op, *_packed(q, concepts, log_prior), scale, n)


run = differentiable(forward, backward, TENSORS, WRT)
