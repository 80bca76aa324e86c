"""The arguments of masked_attention, checked."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustmdiff.ops.registration import FLOATS, autocast, describe


class Arguments(NamedTuple):
    """What the backends take, in the order of the schemas; see `masked_attention` for what each means."""

    q: Tensor  # [Tq, H, D]
    k: Tensor  # [Tk, Hkv, D]
    v: Tensor  # [Tk, Hkv, D]
    q_segments: Tensor  # int32 [B, Mq, 2]
    k_segments: Tensor  # int32 [B, M, 2]
    affinity: Tensor | None  # [H, Mq, M]
    key: Tensor | None  # int64 [2], where dropout_p > 0
    scale: float
    exclude_own: bool
    dropout_p: float
    bias: Tensor | None = None  # [1 or B, 1 or H, 1 or Tq / B, 1 or Tk / B]
    softcap: float | None = None
    out: Tensor | None = None  # the public function copies to it


def arguments(
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
) -> Arguments:
    """Those of the public function: cast by autocast, TypeError or ValueError where wrong."""
    q, k, v = autocast(q, k, v)
    _check_tokens(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    softcap = None if softcap is None else float(softcap)
    settings = affinity, key, scale, exclude_own, float(dropout_p), bias, softcap, out
    a = Arguments(q, k, v, q_segments, k_segments, *settings)
    _check_segments(a)
    if affinity is not None:
        _check_affinity(a, affinity)
    _check_settings(a)
    _check_devices(a)
    if bias is not None:
        _check_bias(a, bias)
    if out is not None:
        _check_out(a, out)
    return a


def _check_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    shape, keys, dtype = q.shape, k.shape, q.dtype
    if len(shape) != 3 or len(keys) != 3 or keys[2] != shape[2] or shape[2] == 0:
        raise ValueError(
            "masked_attention: q and k must be [tokens, heads, width] of one width >= 1, "
            f"got {list(shape)} and {list(keys)}"
        )
    if v.shape != keys:
        raise ValueError(f"masked_attention: v must be {list(keys)} like k, got {list(v.shape)}")
    if keys[1] == 0 or shape[1] % keys[1]:
        raise ValueError(
            f"masked_attention: k has {keys[1]} heads, expected a divisor of the {shape[1]} heads of q"
        )
    if dtype not in FLOATS or k.dtype != dtype or v.dtype != dtype:
        raise TypeError(
            "masked_attention: q, k and v must share one of float32, bfloat16, float16, float64, "
            f"got {dtype}, {k.dtype} and {v.dtype}"
        )


def _check_segments(a: Arguments) -> None:
    """All but their values, which the backends look at."""
    queries, keys = a.q_segments.shape, a.k_segments.shape
    for name, segments, shape in (("q_segments", a.q_segments, queries), ("k_segments", a.k_segments, keys)):
        if segments.dtype != torch.int32:
            raise TypeError(f"masked_attention: {name} must be torch.int32, got {segments.dtype}")
        if len(shape) != 3 or shape[2] != 2:
            raise ValueError(f"masked_attention: {name} must be [patients, modalities, 2], got {list(shape)}")
    B, Mq, M = *queries[:2], keys[1]
    if B == 0:
        raise ValueError("masked_attention: q_segments has no patients, expected at least one")
    if keys[0] != B:
        raise ValueError(f"masked_attention: k_segments has {keys[0]} patients, expected {B} like q_segments")
    if a.exclude_own and Mq != M:
        raise ValueError(
            f"masked_attention: exclude_own needs as many query as key modalities, got {Mq} and {M}"
        )


def _check_affinity(a: Arguments, affinity: Tensor) -> None:
    whole = a.q.shape[1], a.q_segments.shape[1], a.k_segments.shape[1]
    if affinity.shape != whole:
        raise ValueError(
            "masked_attention: affinity must be [heads, query modalities, key modalities] = "
            f"{list(whole)}, got {list(affinity.shape)}"
        )
    if affinity.dtype not in FLOATS:
        raise TypeError(f"masked_attention: affinity must be floating point, got {affinity.dtype}")


def _check_settings(a: Arguments) -> None:
    """Dropout and the soft cap."""
    if not 0 <= a.dropout_p < 1:
        raise ValueError(f"masked_attention: dropout_p is {a.dropout_p}, expected 0 <= dropout_p < 1")
    if (a.key is None and a.dropout_p > 0) or (a.key is not None and a.dropout_p == 0):
        raise ValueError(
            f"masked_attention: dropout_p is {a.dropout_p} and key is {describe(a.key)}, expected a key "
            "(int64 [2]: seed, offset) exactly where dropout_p > 0"
        )
    if a.key is not None and (a.key.dtype != torch.int64 or a.key.shape != (2,)):
        raise ValueError(f"masked_attention: key must be int64 [2] (seed, offset), got {describe(a.key)}")
    if a.softcap is not None and not 0 < a.softcap < math.inf:
        raise ValueError(f"masked_attention: softcap is {a.softcap}, expected a number > 0")


def _check_devices(a: Arguments) -> None:
    device = a.q.device
    for x in (a.k, a.v, a.q_segments, a.k_segments, a.affinity, a.key, a.bias):
        if x is not None and x.device != device:
            name = next(name for name, y in zip(a._fields, a, strict=True) if y is x)
            raise ValueError(f"masked_attention: {name} is on {x.device}, expected {device} like q")


def _check_bias(a: Arguments, bias: Tensor) -> None:
    if bias.dtype not in FLOATS:
        raise TypeError(f"masked_attention: bias must be floating point, got {bias.dtype}")
    B, (Tq, H), Tk = a.q_segments.shape[0], a.q.shape[:2], a.k.shape[0]
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


def _check_out(a: Arguments, out: Tensor) -> None:
    inputs = (out, a.q, a.k, a.v, a.affinity, a.bias)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        raise ValueError("masked_attention: out is given while a gradient is recorded, use torch.no_grad")
    if out.shape != a.q.shape or out.dtype != a.q.dtype or out.device != a.q.device:
        raise ValueError(
            f"masked_attention: out is {describe(out)}, expected {describe(a.q)}, the shape, dtype and "
            "device of q"
        )
