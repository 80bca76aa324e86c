"""Our attention inside models of transformers: `attn_implementation="robustmdiff"`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustmdiff.nn.masked_attention import every_row
from robustmdiff.ops import masked_attention
from robustmdiff.ops.masked_attention.converters import stretches

NAME = "robustmdiff"


class OwnAttentionError(ValueError):
    """The model computes attention by itself; no other attention can be put into it."""


# What models pass on to an attention function and its result does not depend on: transformers' own eager
# functions ignore them too.
HARMLESS = frozenset(
    {
        "deterministic",
        "interpolate_pos_encoding",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


def register_with_transformers() -> None:
    """Make "robustmdiff" an attention implementation of transformers.

        register_with_transformers()
        model = BertModel(BertConfig(attn_implementation="robustmdiff"))

    For encoders: every token sees every token that is not padding. What models hand over beside the mask
    is either taken (`position_bias`, as in T5, and `softcap`) or known to be harmless, or raises
    ValueError; so do a mask that is not padding (a causal one, a window, a prepared 4-D one) and
    `output_attentions=True`. A model that computes attention by itself raises ValueError when it is made,
    or when `set_attn_implementation` is called. Keys in the padding are never read, and a text that is
    nothing but padding reads 0.

    Sequences need no padding either: model(x[None], position_ids=..., segments=...) takes them end to end
    (see `attention`), where the model hands on what it is called with.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, key_stretches)
    _refuse_own_attention(PreTrainedModel)


def key_stretches(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> Tensor | None:
    """What transformers passes on as the mask: int32 [B, M, 2, Lk, 1], (first column, length) of each
    stretch of a row that is not padding; None where nothing is padded, as far as is known without looking.

    The stretches count from the row's own first column, so that rows may be repeated and reordered. The
    axis of Lk equal entries says which keys the mask is for, and a fifth axis keeps a model from adding
    it to scores of its own.
    """
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
    return stretches(attention_mask)[..., None, None].expand(-1, -1, -1, kv_length, -1)


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
    position_bias: Tensor | None = None,  # [1 or B, 1 or H, Lq, Lk]
    softcap: float | None = None,
    output_attentions: bool | None = None,
    segments: Tensor | None = None,  # int32 [n, 1, 2]
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: -> ([B, Lq, H, D], no weights).

    segments  (first token, length) of sequences that lie end to end in a batch of one, and do not see each
              other: a model hands them on that is called with `segments`, no mask, and `position_ids`.
    """
    _refuse(module, is_causal, output_attentions, others)
    B, Lq, Lk = query.shape[0], query.shape[2], key.shape[2]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    if segments is not None:
        asking = asked = segments
    else:
        asking, asked = every_row(B, Lq, q.device), every_row(B, Lk, q.device)
        if attention_mask is not None:
            asked = _segments(attention_mask, B, Lk)
    out = masked_attention(
        q,
        k,
        v,
        asking,
        asked,
        scale=scaling,
        dropout_p=dropout,
        key=torch.randint(2**62, (2,), device=q.device) if dropout > 0 else None,
        bias=position_bias,
        softcap=softcap,
    )
    return out.unflatten(0, (B, Lq)), None


def _refuse(
    module: nn.Module, is_causal: bool | None, output_attentions: bool | None, others: dict[str, Any]
) -> None:
    model = type(module).__name__
    asked = output_attentions or getattr(getattr(module, "config", None), "output_attentions", False)
    if is_causal or (is_causal is None and getattr(module, "is_causal", False)):
        raise ValueError(f"robustmdiff attention: {model} is causal, expected an encoder; use 'sdpa' there")
    if asked or _collects_weights():
        raise ValueError(
            f"robustmdiff attention: output_attentions is True in {model}, expected False, as the weights "
            "are never held; use 'eager' there"
        )
    for name, value in others.items():
        if value is not None and name not in HARMLESS:
            raise ValueError(
                f"robustmdiff attention: {model} passes {name} = {_short(value)}, expected None, as its "
                "meaning is not known here; use 'eager' there"
            )


def _collects_weights() -> bool:
    """Whether the model that runs will return what its attention modules return as weights: not every model
    passes output_attentions on to them."""
    try:
        from transformers.utils import output_capturing
    except ImportError:  # an older transformers, whose models pass it on
        return False
    collected = output_capturing._active_collector.get()
    return collected is not None and any(name.endswith("attentions") for name in collected)


def _short(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)[:40]


def _segments(mask: Tensor, B: int, Lk: int) -> Tensor:
    """int32 [B, M, 2], rows of the flat axis, of what `key_stretches` made."""
    if mask.dtype != torch.int32 or mask.ndim != 5 or mask.shape[0] != B or mask.shape[3] != Lk:
        raise ValueError(
            f"robustmdiff attention: attention_mask is {mask.dtype} {list(mask.shape)}, expected a "
            f"padding mask of shape [{B}, {Lk}] given to the model"
        )
    start, length = mask[:, :, 0, 0, 0], mask[:, :, 1, 0, 0]
    first_row = torch.arange(B, dtype=torch.int32, device=mask.device) * Lk
    return torch.stack([start + first_row[:, None], length], -1)


def _refuse_own_attention(base: Any) -> None:
    """Let transformers' base class refuse "robustmdiff" for a model that computes attention by itself, as it
    refuses "sdpa". Both of its doors are guarded: that of a new model, and that of an old one, which
    would only log a warning."""
    checked, changed = base.get_correct_attn_implementation, base.set_attn_implementation
    if checked.__module__ == __name__:
        return

    def get_correct_attn_implementation(
        self: Any, requested_attention: str | None, *args: Any, **kwargs: Any
    ) -> str:
        if requested_attention == NAME:
            _check_exchangeable(type(self))
        found: str = checked(self, requested_attention, *args, **kwargs)
        return found

    def set_attn_implementation(
        self: Any, attn_implementation: str | dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if attn_implementation == NAME:
            for part in self.modules():
                if isinstance(part, base):
                    _check_exchangeable(type(part))
        changed(self, attn_implementation, *args, **kwargs)

    base.get_correct_attn_implementation = get_correct_attn_implementation
    base.set_attn_implementation = set_attn_implementation


def _check_exchangeable(model: Any) -> None:
    """That transformers knows the class of this model as one whose attention function can be another."""
    if not (
        model._can_set_attn_implementation() and (model._supports_sdpa or model._supports_attention_backend)
    ):
        raise OwnAttentionError(
            f"robustmdiff attention: {model.__name__} computes attention by itself, expected a model that "
            "takes its attention function from transformers, as 'sdpa' needs it, too; use 'eager' there"
        )
