"""The arguments of graph_attention, checked."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from robustmdiff.ops.graph_attention.graph import Graph
from robustmdiff.ops.registration import FLOATS, autocast


class Arguments(NamedTuple):
    """What the backends take, in the order of the schema; the fields of the `Graph` stand one by one."""

    q: Tensor  # [n, H, D]
    k: Tensor
    v: Tensor
    rowptr: Tensor  # [n + 1]
    col: Tensor  # [E]
    relation: Tensor | None  # [E]
    out_rowptr: Tensor  # [n + 1]
    out_target: Tensor  # [E]
    out_edge: Tensor  # [E]
    relation_bias: Tensor | None  # [H, relations]


def arguments(
    q: Tensor, k: Tensor, v: Tensor, graph: Graph, *, relation_bias: Tensor | None = None
) -> Arguments:
    """Those of the public function: cast by autocast, TypeError or ValueError where wrong."""
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
    return Arguments(q, k, v, *graph, relation_bias)
