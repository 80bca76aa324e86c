"""The ops: one function each, one definition each, several backends behind it."""

from robustmdiff.ops.masked_attention import masked_attention, masked_attention_lse, segments_from_padded

__all__ = [
    "masked_attention",
    "masked_attention_lse",
    "segments_from_padded",
]
