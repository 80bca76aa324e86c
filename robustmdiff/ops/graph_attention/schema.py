"""The operators of graph_attention as torch's dispatcher knows them: one pair a backend."""

from __future__ import annotations

from robustmdiff.ops.attention import AttentionSchema
from robustmdiff.ops.graph_attention.arguments import Arguments


def flops(a: Arguments) -> int:
    """2 multiply-adds for each width, head and edge."""
    return 4 * a.col.shape[0] * a.q.shape[1] * a.q.shape[2]


SCHEMA = AttentionSchema(
    "graph_attention", Arguments, Arguments._fields, ("q", "k", "v", "relation_bias"), flops
)
