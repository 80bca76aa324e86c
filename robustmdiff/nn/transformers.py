"""Our attention inside models of transformers: `attn_implementation="robustmdiff"`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustmdiff.ops import masked_attention, segments_from_key_padding

NAME = "robustmdiff"


def register_with_transformers() -> None:
    """Make "robustmdiff" an attention implementation of transformers.

        register_with_transformers()
        model = BertModel(BertConfig(attn_implementation="robustmdiff"))

    For encoders: every token sees every token that is not padding. A mask that is not padding (a
    causal one, one with holes, a prepared 4-D one) raises ValueError. Keys in the padding are
    never read, and a text that is nothing but padding reads 0.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, key_segments)


def key_segments(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> Tensor | None:
    """What transformers passes on as the mask: int32 [B, 1, 2], the stretch of each row that is not
    padding; None where nothing is padded, as far as is known without looking."""
    from transformers.masking_utils import bidirectional_mask_function

    if mask_function is not bidirectional_mask_function:
        raise ValueError(
            f"robustmdiff attention: mask_function is {mask_function}, expected that of a bidirectional model"
        )
    if attention_mask is None:
        return None
    if attention_mask.shape != (batch_size, kv_length):
        raise ValueError(
            f"robustmdiff attention: attention_mask is {list(attention_mask.shape)}, "
            f"expected [{batch_size}, {kv_length}], a column for each key"
        )
    return segments_from_key_padding(~attention_mask)


def attention(
    module: nn.Module,
    query: Tensor,  # [B, H, Lq, D]
    key: Tensor,  # [B, Hkv, Lk, D]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: -> ([B, Lq, H, D], no weights)."""
    if is_causal or (is_causal is None and getattr(module, "is_causal", False)):
        raise ValueError(
            f"robustmdiff attention: {type(module).__name__} is causal, expected an encoder; use 'sdpa' there"
        )
    B, Lq, Lk = query.shape[0], query.shape[2], key.shape[2]
    segments = _whole(B, Lk, query.device) if attention_mask is None else attention_mask
    if segments.dtype != torch.int32 or segments.shape != (B, 1, 2):
        raise ValueError(
            f"robustmdiff attention: attention_mask is {segments.dtype} {list(segments.shape)}, expected a "
            f"padding mask of shape [{B}, {Lk}] given to the model"
        )
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    drop = torch.randint(2**62, (2,), device=q.device) if dropout > 0 else None
    out = masked_attention(
        q, k, v, _whole(B, Lq, q.device), segments, scale=scaling, dropout_p=dropout, key=drop
    )
    return out.unflatten(0, (B, Lq)), None


def _whole(B: int, L: int, device: torch.device) -> Tensor:
    start = torch.arange(B, dtype=torch.int32, device=device) * L
    return torch.stack([start, torch.full_like(start, L)], -1)[:, None]
