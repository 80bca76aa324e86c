"""graph_attention on Triton: the operators around `robustmdiff.kernels.graph_attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops import triton_support
from robustmdiff.ops.graph_attention.arguments import Arguments
from robustmdiff.ops.graph_attention.graph import check_relation
from robustmdiff.ops.graph_attention.schema import SCHEMA
from robustmdiff.ops.registration import describe


def reasons(a: Arguments) -> list[str]:
    return triton_support.reasons(a.q, a.q.shape[-1])


def _check(a: Arguments) -> None:
    """Of a graph that was not made by Graph.from_edges: the kernels trust these shapes."""
    nodes, edges = a.q.shape[0], a.col.shape[0]
    for name in ("rowptr", "col", "relation", "out_rowptr", "out_target", "out_edge"):
        x, length = getattr(a, name), nodes + 1 if name.endswith("rowptr") else edges
        if x is not None and (x.dtype != torch.int64 or x.shape != (length,) or x.device != a.q.device):
            raise ValueError(
                f"graph_attention: graph.{name} is {describe(x)}, "
                f"expected torch.int64 [{length}] on {a.q.device}"
            )
    check_relation(a.relation, a.relation_bias)


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    from robustmdiff.kernels import graph_attention

    _check(a)
    return graph_attention.forward(a)


def backward(grad_out: Tensor, out: Tensor, lse: Tensor, a: Arguments) -> tuple[Tensor, ...]:
    from robustmdiff.kernels import graph_attention

    _check(a)
    return graph_attention.backward(grad_out, out, lse, a)


forward_op, backward_op, run = SCHEMA.operators("_triton", forward, backward)
