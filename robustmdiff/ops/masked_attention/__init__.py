"""Attention of each patient's queries to the modalities that the patient has.

from robustmdiff.ops import masked_attention, segments_from_padded

segments = segments_from_padded(lengths, offsets)     # int32 [B, M, 2], length 0 = absent
out = masked_attention(q, k, v, segments, segments)   # tokens [T, H, D] on one flat axis
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.masked_attention import (
    definition,
    native,
    torch_backend,
    torch_biased,
    triton_backend,
)
from robustmdiff.ops.masked_attention.arguments import Arguments, arguments
from robustmdiff.ops.masked_attention.converters import (
    segments_from_block_diagonal,
    segments_from_key_padding,
    segments_from_nested,
)
from robustmdiff.ops.masked_attention.segments import segments_from_padded

__all__ = [
    "masked_attention",
    "masked_attention_lse",
    "segments_from_block_diagonal",
    "segments_from_key_padding",
    "segments_from_nested",
    "segments_from_padded",
]


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    *,
    scale: float | None = None,
    affinity: Tensor | None = None,
    exclude_own: bool = False,
    dropout_p: float = 0.0,
    key: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T + affinity + bias) v over the keys of the modalities each patient has.

    q            [Tq, H, D], float32, bfloat16, float16 or float64: all patients' queries end to end.
    k, v         [Tk, Hkv, D], same dtype; Hkv divides H.
    q_segments   int32 [B, Mq, 2], (start, length) of patient b's queries of modality i.
    k_segments   int32 [B, M, 2], the same for the keys. Length 0 = absent. Patient b's queries see
                 all keys of patient b and no others. No two segments of one side overlap.
    scale        default 1 / sqrt(D).
    affinity     [H, Mq, M], a bias between query and key modality; it has a gradient.
    exclude_own  modality i sees the other modalities only (needs Mq = M).
    dropout_p    drops attention weights, drawn by Philox from `key` (int64 [2]: seed, offset), the query
                 row, the head and the key row; the backward pass draws them again.
    bias         [1 or B, 1 or H, 1 or Lq, 1 or Lk], a bias between each query and each key of a patient, for
                 padded tokens viewed flat: Tq = B Lq, Tk = B Lk, and the segments of patient b lie within
                 its own Lq and Lk rows. It has a gradient, summed where an axis is shared.
    softcap      c > 0: scores become c tanh(scores / c), before affinity and bias are added.
    out          [Tq, H, D] to write to; only where no gradient is recorded.

    A row that sees no key, whose keys all have an affinity or a bias of -inf, or that lies in no segment,
    gives 0 and has gradient 0. Rows outside the
    segments are never read. Softmax and sums are float32 (float64 for float64). Definition:
    robustmdiff.ops.masked_attention.definition. Errors: TypeError for dtypes, ValueError for shapes,
    devices and, on the CPU, for segments that are negative, past the end or overlapping.
    """
    a = arguments(
        q, k, v, q_segments, k_segments,
        scale=scale, affinity=affinity, exclude_own=exclude_own, dropout_p=dropout_p, key=key,
        bias=bias, softcap=softcap, out=out,
    )  # fmt: skip
    return _run(a)[0]


def masked_attention_lse(
    q: Tensor, k: Tensor, v: Tensor, q_segments: Tensor, k_segments: Tensor, **settings: Any
) -> tuple[Tensor, Tensor]:
    """`masked_attention`, with all its settings, and the log-sum-exp of each row's scores: [Tq, H] float32
    (float64 for float64), -1e30 for a row that sees no key. The log-sum-exp carries no gradient."""
    return _run(arguments(q, k, v, q_segments, k_segments, **settings))


def _run(a: Arguments) -> tuple[Tensor, Tensor]:
    found, lse = OP(a)
    return (found if a.out is None else a.out.copy_(found)), lse


def _in_torch(a: Arguments) -> tuple[Tensor, Tensor]:
    plain = a.bias is None and a.softcap is None
    return torch_backend.run(a) if plain else torch_biased.run(a)


OP = Op(
    "masked_attention",
    arguments,
    (
        Backend("native", native.run, native.reasons),
        Backend("triton", triton_backend.run, triton_backend.reasons),
        Backend("torch", _in_torch),
        Backend("definition", definition.masked_attention),
    ),
)
