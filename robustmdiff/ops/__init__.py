"""The ops: one function each, one definition each, several backends behind it."""

from robustmdiff.ops.graph_attention import Graph, graph_attention
from robustmdiff.ops.knowledge_attention import knowledge_attention, knowledge_top
from robustmdiff.ops.masked_attention import masked_attention, masked_attention_lse, segments_from_padded

__all__ = [
    "Graph",
    "graph_attention",
    "knowledge_attention",
    "knowledge_top",
    "masked_attention",
    "masked_attention_lse",
    "segments_from_padded",
]
