"""Our attention inside models of diffusers: `unet.set_attn_processor(MaskedAttnProcessor())`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.nn.masked_attention import every_row
from robustmdiff.ops import masked_attention, segments_from_key_padding

# diffusers makes 0 of what is seen and -10000 of what is not; others use -inf or the dtype's least number.
HIDDEN = -1e4


class MaskedAttnProcessor:
    """An attention processor with the output of diffusers' `AttnProcessor2_0`.

        unet.set_attn_processor(MaskedAttnProcessor())

    A mask (UNet's attention_mask, encoder_attention_mask) must be padding: it says for each row of the
    batch which keys are seen, with holes or without. Keys in the padding are never read, and a row that is
    nothing but padding reads 0, where diffusers averages the padding. Raises ValueError for any other mask
    (in a compiled graph and on a GPU an assertion fails), for attention with added keys, and for rotary
    embeddings and the masks of IP-Adapters (diffusers drops, with a warning at most, what a processor
    does not name).
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        image_rotary_emb: Any = None,
        rotary_emb: Any = None,
        ip_adapter_masks: Any = None,
    ) -> Tensor:
        """attn: `diffusers.models.attention_processor.Attention`; hidden_states [B, Lq, d] or [B, d, h, w],
        encoder_hidden_states [B, Lk, d'], attention_mask [B, Lk] or [B, 1, Lk] -> like hidden_states."""
        if getattr(attn, "add_k_proj", None) is not None:
            raise ValueError("MaskedAttnProcessor: attn has added keys (add_k_proj), expected one without")
        refused = {
            "image_rotary_emb": image_rotary_emb,
            "rotary_emb": rotary_emb,
            "ip_adapter_masks": ip_adapter_masks,
        }
        for name, value in refused.items():
            if value is not None:
                raise ValueError(f"MaskedAttnProcessor: {name} is given, expected attention without it")
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        image = hidden_states.shape if hidden_states.ndim == 4 else None
        if image is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            encoder_hidden_states = hidden_states
        elif attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)

        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1))  # [B, Lq, heads, D]
        D = query.shape[-1]
        key = attn.to_k(encoder_hidden_states).unflatten(-1, (-1, D))  # [B, Lk, heads or a divisor, D]
        value = attn.to_v(encoder_hidden_states).unflatten(-1, (-1, D))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        (B, Lq), Lk = query.shape[:2], key.shape[1]
        seen = every_row(B, Lk, key.device) if attention_mask is None else _seen(attention_mask, B, Lk)
        out = masked_attention(
            query.flatten(0, 1),
            key.flatten(0, 1),
            value.flatten(0, 1),
            every_row(B, Lq, query.device),
            seen,
            scale=attn.scale,
        )
        out = out.flatten(1).unflatten(0, (B, Lq)).to(query.dtype)

        out = attn.to_out[1](attn.to_out[0](out))
        if image is not None:
            out = out.transpose(1, 2).reshape(image)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def _seen(mask: Tensor, B: int, Lk: int) -> Tensor:
    """int32 [B, M, 2]: the keys seen, of diffusers' bias or of a bool mask (True = seen)."""
    if mask.shape not in ((B, Lk), (B, 1, Lk)):
        raise ValueError(
            f"MaskedAttnProcessor: attention_mask is {list(mask.shape)}, expected [{B}, {Lk}] or "
            f"[{B}, 1, {Lk}], one value for each key"
        )
    mask = mask.reshape(B, Lk)
    if mask.dtype == torch.bool:
        return segments_from_key_padding(~mask)
    hidden = mask <= HIDDEN
    neither = ~hidden & (mask != 0)
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        torch._assert_async(
            ~neither.any(),
            f"MaskedAttnProcessor: attention_mask has values neither 0 (seen) nor at most {HIDDEN:g}",
        )
    elif neither.any():
        b, column = neither.nonzero()[0].tolist()
        raise ValueError(
            f"MaskedAttnProcessor: attention_mask[{b}, {column}] is {float(mask[b, column])}, expected 0 "
            f"(seen) or at most {HIDDEN:g} (padding)"
        )
    return segments_from_key_padding(hidden)
