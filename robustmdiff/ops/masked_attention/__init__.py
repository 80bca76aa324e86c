"""Attention of each patient's queries to the modalities that the patient has.

from robustmdiff.ops import masked_attention, segments_from_padded

segments = segments_from_padded(lengths, offsets)     # int32 [B, M, 2], length 0 = absent
out = masked_attention(q, k, v, segments, segments)   # tokens [T, H, D] on one flat axis
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.masked_attention import (
    definition,
    native,
    torch_backend,
    torch_biased,
    triton_backend,
)
from robustmdiff.ops.masked_attention.converters import (
    segments_from_block_diagonal,
    segments_from_key_padding,
    segments_from_nested,
)
from robustmdiff.ops.masked_attention.schema import TENSORS
from robustmdiff.ops.masked_attention.segments import segments_from_padded
from robustmdiff.ops.registration import FLOATS, autocast

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
    args = _prepare(
        q, k, v, q_segments, k_segments,
        scale=scale, affinity=affinity, exclude_own=exclude_own, dropout_p=dropout_p, key=key,
        bias=bias, softcap=softcap,
    )  # fmt: skip
    found, _ = OP.select(*args).run(*args)
    if out is None:
        return found
    if found.requires_grad:
        raise ValueError("masked_attention: out is given while a gradient is recorded, use torch.no_grad")
    if out.shape != found.shape or out.dtype != found.dtype or out.device != found.device:
        raise ValueError(
            f"masked_attention: out is {_describe(out)}, expected {_describe(found)}, the shape, dtype and "
            "device of q"
        )
    return out.copy_(found)


def masked_attention_lse(
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
) -> tuple[Tensor, Tensor]:
    """`masked_attention` and the log-sum-exp of each row's scores, [Tq, H] float32 (float64 for
    float64), -1e30 for a row that sees no key. The log-sum-exp carries no gradient."""
    args = _prepare(
        q, k, v, q_segments, k_segments,
        scale=scale, affinity=affinity, exclude_own=exclude_own, dropout_p=dropout_p, key=key,
        bias=bias, softcap=softcap,
    )  # fmt: skip
    return OP.select(*args).run(*args)


def _prepare(
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
) -> tuple[Any, ...]:
    """The arguments of the backends, checked: q, k, v, ... in the order of the schema; bias and softcap
    behind them where one is given."""
    q, k, v = autocast(q, k, v)
    _check(q, k, v, q_segments, k_segments, affinity, exclude_own, dropout_p, key)
    _check_biased(q, k, q_segments, bias, softcap)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    plain = q, k, v, q_segments, k_segments, affinity, key, scale, exclude_own, float(dropout_p)
    if bias is None and softcap is None:
        return plain
    return *plain, bias, None if softcap is None else float(softcap)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    exclude_own: bool,
    dropout_p: float,
    key: Tensor | None,
) -> None:
    """Everything that shapes, dtypes and devices can tell; values are checked by the backend."""
    if q.ndim != 3 or k.ndim != 3 or k.shape[2] != q.shape[2] or q.shape[2] == 0:
        raise ValueError(
            "masked_attention: q and k must be [tokens, heads, width] of one width >= 1, "
            f"got {list(q.shape)} and {list(k.shape)}"
        )
    if v.shape != k.shape:
        raise ValueError(f"masked_attention: v must be {list(k.shape)} like k, got {list(v.shape)}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"masked_attention: k has {k.shape[1]} heads, expected a divisor of the {q.shape[1]} heads of q"
        )
    if q.dtype not in FLOATS or k.dtype != q.dtype or v.dtype != q.dtype:
        raise TypeError(
            "masked_attention: q, k and v must share one of float32, bfloat16, float16, float64, "
            f"got {q.dtype}, {k.dtype} and {v.dtype}"
        )
    for name, segments in (("q_segments", q_segments), ("k_segments", k_segments)):
        if segments.dtype != torch.int32:
            raise TypeError(f"masked_attention: {name} must be torch.int32, got {segments.dtype}")
        if segments.ndim != 3 or segments.shape[2] != 2:
            raise ValueError(
                f"masked_attention: {name} must be [patients, modalities, 2], got {list(segments.shape)}"
            )
    (B, Mq), M = q_segments.shape[:2], k_segments.shape[1]
    if B == 0:
        raise ValueError("masked_attention: q_segments has no patients, expected at least one")
    if k_segments.shape[0] != B:
        raise ValueError(
            f"masked_attention: k_segments has {k_segments.shape[0]} patients, expected {B} like q_segments"
        )
    if exclude_own and Mq != M:
        raise ValueError(
            f"masked_attention: exclude_own needs as many query as key modalities, got {Mq} and {M}"
        )
    if affinity is not None and affinity.shape != (q.shape[1], Mq, M):
        raise ValueError(
            "masked_attention: affinity must be [heads, query modalities, key modalities] = "
            f"[{q.shape[1]}, {Mq}, {M}], got {list(affinity.shape)}"
        )
    if affinity is not None and affinity.dtype not in FLOATS:
        raise TypeError(f"masked_attention: affinity must be floating point, got {affinity.dtype}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"masked_attention: dropout_p is {dropout_p}, expected 0 <= dropout_p < 1")
    if (key is None and dropout_p > 0) or (key is not None and dropout_p == 0):
        raise ValueError(
            f"masked_attention: dropout_p is {dropout_p} and key is {_describe(key)}, expected a key (int64 "
            "[2]: seed, offset) exactly where dropout_p > 0"
        )
    if key is not None and (key.dtype != torch.int64 or key.shape != (2,)):
        raise ValueError(f"masked_attention: key must be int64 [2] (seed, offset), got {_describe(key)}")
    others = {
        "k": k,
        "v": v,
        "q_segments": q_segments,
        "k_segments": k_segments,
        "affinity": affinity,
        "key": key,
    }
    for name, tensor in others.items():
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"masked_attention: {name} is on {tensor.device}, expected {q.device} like q")


def _check_biased(
    q: Tensor, k: Tensor, q_segments: Tensor, bias: Tensor | None, softcap: float | None
) -> None:
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ValueError(f"masked_attention: softcap is {softcap}, expected a number > 0")
    if bias is None:
        return
    if bias.dtype not in FLOATS:
        raise TypeError(f"masked_attention: bias must be floating point, got {bias.dtype}")
    if bias.device != q.device:
        raise ValueError(f"masked_attention: bias is on {bias.device}, expected {q.device} like q")
    B, (Tq, H), Tk = q_segments.shape[0], q.shape[:2], k.shape[0]
    if Tq % B or Tk % B:
        raise ValueError(
            f"masked_attention: q has {Tq} and k has {Tk} rows for {B} patients, expected as many for each "
            "where there is a bias: padded tokens viewed flat"
        )
    whole = B, H, Tq // B, Tk // B
    if bias.ndim != 4 or any(n not in (1, all_of) for n, all_of in zip(bias.shape, whole, strict=True)):
        raise ValueError(
            "masked_attention: bias must be [patients, heads, query rows, key rows of a patient] = "
            f"{list(whole)}, or 1 on an axis that is shared, got {list(bias.shape)}"
        )


def _describe(x: Tensor | None) -> str:
    return "None" if x is None else f"{x.dtype} {list(x.shape)} on {x.device}"


def _no_reasons(*_: Any) -> list[str]:
    return []


def _in_torch(*args: Any) -> tuple[Tensor, Tensor]:
    if len(args) == 10:
        return torch_backend.run(*args)
    *plain, bias, softcap = args
    return torch_biased.run(*plain[:TENSORS], bias, *plain[TENSORS:], softcap)


OP = Op(
    "masked_attention",
    (
        Backend("native", native.run, native.reasons),
        Backend("triton", triton_backend.run, triton_backend.reasons),
        Backend("torch", _in_torch, _no_reasons),
        Backend("definition", definition.masked_attention, _no_reasons),
    ),
    _prepare,
)
