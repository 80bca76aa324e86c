"""The schemas of knowledge_attention and knowledge_top, their shape rules and their cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.registration import define, lse_dtype

INPUTS = "Tensor q, Tensor concepts, Tensor? log_prior, float scale"
FORWARD = f"({INPUTS}) -> (Tensor out, Tensor lse)"
BACKWARD = f"(Tensor grad_out, Tensor out, Tensor lse, {INPUTS}) -> (Tensor, Tensor, Tensor)"
TOP = f"({INPUTS}, int n) -> (Tensor index, Tensor weight)"
TENSORS, WRT = 3, (0, 1, 2)


def fake_forward(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=lse_dtype(q.dtype))


def fake_backward(
    grad_out: Tensor, out: Tensor, lse: Tensor, q: Tensor, concepts: Tensor, log_prior: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dprior = q.new_empty(0) if log_prior is None else log_prior.new_empty(log_prior.shape)
    return q.new_empty(q.shape), concepts.new_empty(concepts.shape), dprior


def fake_top(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float, n: int
) -> tuple[Tensor, Tensor]:
    shape = (*q.shape[:2], n)
    return q.new_empty(shape, dtype=torch.int64), q.new_empty(shape, dtype=lse_dtype(q.dtype))


def forward_flops(q: Tensor, concepts: Tensor, *_: Any, **__: Any) -> int:
    return 4 * q.shape[0] * q.shape[1] * q.shape[2] * concepts.shape[0]


def backward_flops(grad_out: Tensor, out: Tensor, lse: Tensor, *inputs: Any, **_: Any) -> int:
    return forward_flops(*inputs) * 5 // 2


def top_flops(*inputs: Any, **_: Any) -> int:
    return forward_flops(*inputs) // 2


def declare(suffix: str) -> tuple[Any, Any]:
    """Define the forward and the backward operator of one backend; "" is the native one."""
    return (
        define(f"knowledge_attention_fwd{suffix}", FORWARD, fake_forward, forward_flops),
        define(f"knowledge_attention_bwd{suffix}", BACKWARD, fake_backward, backward_flops),
    )


def declare_top(suffix: str) -> Any:
    """Define the operator of knowledge_top of one backend."""
    return define(f"knowledge_top{suffix}", TOP, fake_top, top_flops)
