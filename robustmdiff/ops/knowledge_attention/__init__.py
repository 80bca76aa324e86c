"""Attention to a table of concepts, each row read once as key and as value.

    from robustmdiff.ops import knowledge_attention

    a = knowledge_attention(q, concepts, log_prior, scale=d_k**-0.5)   # q [N, H, d], concepts [k, d]

A relevance matrix R belongs to the query: softmax((q R^T) K^T) K = softmax(q (K R)^T) K.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.knowledge_attention import definition, native, torch_backend, triton_backend
from robustmdiff.ops.registration import FLOATS, autocast

__all__ = ["knowledge_attention", "knowledge_top"]


def knowledge_attention(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float
) -> Tensor:
    """softmax(scale q K^T + log_prior) K over k concepts, [N, H, d].

    q          [N, H, d], float32, bfloat16, float16 or float64.
    concepts   [k, d], same dtype, k >= 1: K, shared by all rows and heads.
    log_prior  [k], floating point, added to every row's scores; -inf = the concept is absent: it is
               never used, and its gradients are 0. With every concept absent the result is 0.

    No array of N x k is made. Softmax and sums are float32 (float64 for float64). Definition:
    robustmdiff.ops.knowledge_attention.definition. Errors: TypeError for dtypes, ValueError for
    shapes and devices and, on the CPU, for a log_prior that is NaN or +inf.
    """
    args = _prepare(q, concepts, log_prior, scale=scale)
    out, _ = OP.select(*args).run(*args)
    return out


def knowledge_top(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float, n: int
) -> tuple[Tensor, Tensor]:
    """The n concepts of largest weight for each row, without gradient: the explanation.

    Arguments as in `knowledge_attention`, 1 <= n <= k. Returns index int64 [N, H, n] and weight
    [N, H, n] float32 (float64 for float64), heaviest first. Where fewer than n concepts are
    present the rest have weight 0.
    """
    args = _prepare_top(q, concepts, log_prior, scale=scale, n=n)
    with torch.no_grad():
        return TOP.select(*args).run(*args)


def _prepare(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float
) -> tuple[Any, ...]:
    q, concepts = autocast(q, concepts)
    if q.ndim != 3 or q.shape[2] == 0:
        raise ValueError(f"knowledge_attention: q must be [rows, heads, width >= 1], got {list(q.shape)}")
    if concepts.ndim != 2 or concepts.shape[1] != q.shape[2]:
        raise ValueError(
            f"knowledge_attention: concepts must be [k, {q.shape[2]}] like the width of q, "
            f"got {list(concepts.shape)}"
        )
    if concepts.shape[0] == 0:
        raise ValueError("knowledge_attention: concepts has k = 0 rows, expected at least one concept")
    if q.dtype not in FLOATS or concepts.dtype != q.dtype:
        raise TypeError(
            "knowledge_attention: q and concepts must share one of float32, bfloat16, float16, float64, "
            f"got {q.dtype} and {concepts.dtype}"
        )
    if log_prior is not None and log_prior.dtype not in FLOATS:
        raise TypeError(f"knowledge_attention: log_prior must be floating point, got {log_prior.dtype}")
    if log_prior is not None and log_prior.shape != concepts.shape[:1]:
        raise ValueError(
            f"knowledge_attention: log_prior must be [k] = [{concepts.shape[0]}], got {list(log_prior.shape)}"
        )
    for name, tensor in (("concepts", concepts), ("log_prior", log_prior)):
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"knowledge_attention: {name} is on {tensor.device}, expected {q.device} like q")
    return q, concepts, log_prior, float(scale)


def _prepare_top(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float, n: int
) -> tuple[Any, ...]:
    args = _prepare(q, concepts, log_prior, scale=scale)
    if not 1 <= n <= concepts.shape[0]:
        raise ValueError(f"knowledge_top: n is {n}, expected 1 to k = {concepts.shape[0]}")
    return *args, n


def _no_reasons(*_: Any) -> list[str]:
    return []


OP = Op(
    "knowledge_attention",
    (
        Backend("native", native.run, native.reasons),
        Backend("triton", triton_backend.run, triton_backend.reasons),
        Backend("torch", torch_backend.run, _no_reasons),
        Backend("definition", definition.knowledge_attention, _no_reasons),
    ),
    _prepare,
)
TOP = Op(
    "knowledge_top",
    (
        Backend("native", native.top_op, native.reasons),
        Backend("triton", torch_backend.top_op, triton_backend.no_top),
        Backend("torch", torch_backend.top_op, _no_reasons),
        Backend("definition", definition.knowledge_top, _no_reasons),
    ),
    _prepare_top,
)
