"""The ops: one function each, one definition each, several backends behind it."""

from robustmdiff.ops.chain import chain
from robustmdiff.ops.ddpm import DynamicThreshold, ddpm_noise, ddpm_noise_loss, ddpm_step, ddpm_table
from robustmdiff.ops.graph_attention import Graph, graph_attention
from robustmdiff.ops.knowledge_attention import knowledge_attention, knowledge_top
from robustmdiff.ops.masked_attention import (
    masked_attention,
    masked_attention_lse,
    segments_from_block_diagonal,
    segments_from_key_padding,
    segments_from_nested,
    segments_from_padded,
)
from robustmdiff.ops.philox import philox_key
from robustmdiff.ops.registration import register_flops

__all__ = [
    "DynamicThreshold",
    "Graph",
    "chain",
    "ddpm_noise",
    "ddpm_noise_loss",
    "ddpm_step",
    "ddpm_table",
    "graph_attention",
    "knowledge_attention",
    "knowledge_top",
    "masked_attention",
    "masked_attention_lse",
    "philox_key",
    "register_flops",
    "segments_from_block_diagonal",
    "segments_from_key_padding",
    "segments_from_nested",
    "segments_from_padded",
]
