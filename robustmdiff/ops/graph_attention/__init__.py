"""Attention of each node of a graph to the sources of its in-edges.

from robustmdiff.ops import Graph, graph_attention

graph = Graph.from_edges(source, target, num_nodes)
out = graph_attention(q, k, v, graph)   # [n, H, D]
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.graph_attention import definition, native, torch_backend, triton_backend
from robustmdiff.ops.graph_attention.graph import Graph
from robustmdiff.ops.registration import FLOATS, autocast

__all__ = ["Graph", "graph_attention"]


def graph_attention(
    q: Tensor, k: Tensor, v: Tensor, graph: Graph, *, relation_bias: Tensor | None = None
) -> Tensor:
    """out_i = sum over edges j -> i of softmax_j(q_i k_j / sqrt(D) + relation_bias[relation]) v_j.

    q, k, v        [n, H, D], one of float32, bfloat16, float16, float64; n is graph.num_nodes.
    graph          Graph.from_edges(source, target, n, relation).
    relation_bias  [H, relations], floating point, needs a graph with relations; it has a gradient.

    A node without in-edges gives 0; nodes that no edge reads are never read. Softmax and sums are
    float32 (float64 for float64), in one order always. Definition:
    robustmdiff.ops.graph_attention.definition. Errors: TypeError for dtypes, ValueError for shapes,
    devices and, on the CPU, for a relation that relation_bias lacks.
    """
    args = _prepare(q, k, v, graph, relation_bias=relation_bias)
    out, _ = OP.select(*args).run(*args)
    return out


def _prepare(
    q: Tensor, k: Tensor, v: Tensor, graph: Graph, *, relation_bias: Tensor | None = None
) -> tuple[Any, ...]:
    q, k, v = autocast(q, k, v)
    shape, dtype, device = q.shape, q.dtype, q.device
    if len(shape) != 3 or shape[2] == 0 or k.shape != shape or v.shape != shape:
        raise ValueError(
            "graph_attention: q, k and v must share one shape [nodes, heads, width >= 1], "
            f"got {list(shape)}, {list(k.shape)} and {list(v.shape)}"
        )
    if dtype not in FLOATS or k.dtype != dtype or v.dtype != dtype:
        raise TypeError(
            "graph_attention: q, k and v must share one of float32, bfloat16, float16, float64, "
            f"got {dtype}, {k.dtype} and {v.dtype}"
        )
    if not isinstance(graph, Graph):
        raise TypeError(f"graph_attention: graph is a {type(graph).__name__}, expected Graph.from_edges(...)")
    if shape[0] != graph.rowptr.shape[0] - 1:
        raise ValueError(
            f"graph_attention: q has {shape[0]} rows, expected one for each of the graph's "
            f"{graph.rowptr.shape[0] - 1} nodes"
        )
    if relation_bias is not None:
        if graph.relation is None:
            raise ValueError("graph_attention: relation_bias is given, but the graph has no relations")
        if relation_bias.ndim != 2 or relation_bias.shape[0] != shape[1]:
            raise ValueError(
                f"graph_attention: relation_bias must be [heads, relations] = [{shape[1]}, relations], "
                f"got {list(relation_bias.shape)}"
            )
        if relation_bias.dtype not in FLOATS:
            raise TypeError(f"graph_attention: relation_bias must be floating, got {relation_bias.dtype}")
    for name, tensor in (("k", k), ("v", v), ("graph", graph.col), ("relation_bias", relation_bias)):
        if tensor is not None and tensor.device != device:
            raise ValueError(f"graph_attention: {name} is on {tensor.device}, expected {device} like q")
    return q, k, v, *graph, relation_bias


def _no_reasons(*_: Any) -> list[str]:
    return []


OP = Op(
    "graph_attention",
    (
        Backend("native", native.run, native.reasons),
        Backend("triton", triton_backend.run, triton_backend.reasons),
        Backend("torch", torch_backend.run, _no_reasons),
        Backend("definition", definition.graph_attention, _no_reasons),
    ),
    _prepare,
)
