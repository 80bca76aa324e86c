"""The schema of graph_attention, its shape rule and its cost; one pair of operators a backend."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.ops.registration import define, lse_dtype

INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor rowptr, Tensor col, Tensor? relation, Tensor out_rowptr, "
    "Tensor out_target, Tensor out_edge, Tensor? relation_bias"
)
FORWARD = f"({INPUTS}) -> (Tensor out, Tensor lse)"
BACKWARD = f"(Tensor grad_out, Tensor out, Tensor lse, {INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)"
TENSORS, WRT = 10, (0, 1, 2, 9)


def fake_forward(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=lse_dtype(q.dtype))


def fake_backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rowptr: Tensor,
    col: Tensor,
    relation: Tensor | None,
    out_rowptr: Tensor,
    out_target: Tensor,
    out_edge: Tensor,
    relation_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dbias = q.new_empty(0) if relation_bias is None else relation_bias.new_empty(relation_bias.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dbias


def forward_flops(q: Tensor, k: Tensor, v: Tensor, rowptr: Tensor, col: Tensor, *_: Any, **__: Any) -> int:
    return 4 * col.shape[0] * q.shape[1] * q.shape[2]


def backward_flops(grad_out: Tensor, out: Tensor, lse: Tensor, *inputs: Any, **_: Any) -> int:
    return forward_flops(*inputs) * 5 // 2


def declare(suffix: str) -> tuple[Any, Any]:
    """Define the forward and the backward operator of one backend; "" is the native one."""
    return (
        define(f"graph_attention_fwd{suffix}", FORWARD, fake_forward, forward_flops),
        define(f"graph_attention_bwd{suffix}", BACKWARD, fake_backward, backward_flops),
    )
