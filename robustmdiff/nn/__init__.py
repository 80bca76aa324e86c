"""Layers made of the ops, to be put into other people's models."""

from robustmdiff.nn.graph_attention import GraphAttention
from robustmdiff.nn.knowledge_attention import KnowledgeAttention
from robustmdiff.nn.masked_attention import MaskedCrossModalAttention
from robustmdiff.nn.transformers import register_with_transformers

__all__ = [
    "GraphAttention",
    "KnowledgeAttention",
    "MaskedCrossModalAttention",
    "register_with_transformers",
]
