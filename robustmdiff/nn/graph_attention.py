"""Attention along the edges of an ontology."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.ops import Graph, graph_attention


class GraphAttention(nn.Module):
    """x_i + W_o of what node i reads from the sources of its in-edges, several heads at once.

    d          width; heads divides it.
    relations  kinds of edges: each head learns a bias for each, 0 to begin with; 0 = none.

    A node without in-edges keeps its x.
    """

    def __init__(self, d: int, heads: int, *, relations: int = 0) -> None:
        super().__init__()
        if heads < 1 or d % heads:
            raise ValueError(f"GraphAttention: heads is {heads}, expected a divisor of d = {d}")
        self.heads = heads
        self.W_q = nn.Linear(d, d, bias=False)
        self.W_k = nn.Linear(d, d, bias=False)
        self.W_v = nn.Linear(d, d, bias=False)
        self.W_o = nn.Linear(d, d, bias=False)
        self.relation_bias = nn.Parameter(torch.zeros(heads, relations)) if relations else None

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """x [n, d], a graph of n nodes -> [n, d]; errors as in robustmdiff.ops.graph_attention."""
        q, k, v = (W(x).unflatten(-1, (self.heads, -1)) for W in (self.W_q, self.W_k, self.W_v))
        return x + self.W_o(graph_attention(q, k, v, graph, relation_bias=self.relation_bias).flatten(1))
