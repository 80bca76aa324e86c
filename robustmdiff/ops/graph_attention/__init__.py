"""Attention of each node of a graph to the sources of its in-edges.

from robustmdiff.ops import Graph, graph_attention

graph = Graph.from_edges(source, target, num_nodes)
out = graph_attention(q, k, v, graph)   # [n, H, D]
"""

from __future__ import annotations

from torch import Tensor

from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.graph_attention import definition, native, torch_backend, triton_backend
from robustmdiff.ops.graph_attention.arguments import arguments
from robustmdiff.ops.graph_attention.graph import Graph

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
    out, _ = OP(arguments(q, k, v, graph, relation_bias=relation_bias))
    return out


OP = Op(
    "graph_attention",
    arguments,
    (
        Backend("native", native.run, native.reasons),
        Backend("triton", triton_backend.run, triton_backend.reasons),
        Backend("torch", torch_backend.run),
        Backend("definition", definition.graph_attention),
    ),
)
