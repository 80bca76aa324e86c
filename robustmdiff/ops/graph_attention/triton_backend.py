"""graph_attention on Triton: the operators around `robustmdiff.kernels.graph_attention`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops import triton_support
from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.graph_attention.graph import check_relation
from robustmdiff.ops.graph_attention.schema import WRT, declare
from robustmdiff.ops.registration import implement


def reasons(q: Tensor, *_: Any) -> list[str]:
    return triton_support.reasons(q, q.shape[-1])


def _check(
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
) -> None:
    """Of a graph that was not made by Graph.from_edges: the kernels trust these shapes."""
    nodes, edges = q.shape[0], col.shape[0]
    expected = {
        "rowptr": (rowptr, nodes + 1),
        "col": (col, edges),
        "relation": (relation, edges),
        "out_rowptr": (out_rowptr, nodes + 1),
        "out_target": (out_target, edges),
        "out_edge": (out_edge, edges),
    }
    for name, (x, length) in expected.items():
        if x is not None and (x.dtype != torch.int64 or x.shape != (length,) or x.device != q.device):
            raise ValueError(
                f"graph_attention: graph.{name} is {x.dtype} {list(x.shape)} on {x.device}, "
                f"expected torch.int64 [{length}] on {q.device}"
            )
    check_relation(relation, relation_bias)


def forward(*args: Any) -> tuple[Tensor, Tensor]:
    from robustmdiff.kernels import graph_attention

    _check(*args)
    return graph_attention.forward(*args)


def backward(grad_out: Tensor, out: Tensor, lse: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from robustmdiff.kernels import graph_attention

    _check(*args)
    return graph_attention.backward(grad_out, out, lse, *args)


forward_op, backward_op = declare("_triton")
implement("graph_attention_fwd_triton", forward)
implement("graph_attention_bwd_triton", backward)
run = differentiable(
    "graph_attention", forward_op, backward_op, wrt=WRT, outputs=(True, False), keep_outputs=True
)
