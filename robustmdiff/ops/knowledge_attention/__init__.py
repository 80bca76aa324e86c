"""Attention to a table of concepts, each row read once as key and as value.

    from robustmdiff.ops import knowledge_attention

    a = knowledge_attention(q, concepts, log_prior, scale=d_k**-0.5)   # q [N, H, d], concepts [k, d]

A relevance matrix R belongs to the query: softmax((q R^T) K^T) K = softmax(q (K R)^T) K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.knowledge_attention import definition, dense, native, torch_backend, triton_backend
from robustmdiff.ops.knowledge_attention.arguments import Arguments, arguments, top_arguments

__all__ = ["knowledge_attention", "knowledge_top"]


def knowledge_attention(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float
) -> Tensor:
    """softmax(scale q K^T + log_prior) K over k concepts, [N, H, d].

    q          [N, H, d], float32, bfloat16, float16 or float64.
    concepts   [k, d], same dtype, k >= 1: K, shared by all rows and heads.
    log_prior  [k], floating point, added to every row's scores; -inf = the concept is absent: it is
               never used, and its gradients are 0. With every concept absent the result is 0.

    No array of N x k is made, but of at most 2^22 weights where rows are many and wide: there torch is
    faster (robustmdiff.ops.knowledge_attention.dense). Softmax and sums are float32 (float64 for float64).
    Definition: robustmdiff.ops.knowledge_attention.definition. Errors: TypeError for dtypes, ValueError for
    shapes and devices and, on the CPU, for a log_prior that is NaN or +inf.
    """
    out: Tensor = OP(arguments(q, concepts, log_prior, scale=scale))[0]
    return out


def knowledge_top(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float, n: int
) -> tuple[Tensor, Tensor]:
    """The n concepts of largest weight for each row, without gradient: the explanation.

    Arguments as in `knowledge_attention`, 1 <= n <= k. Returns index int64 [N, H, n] and weight
    [N, H, n] float32 (float64 for float64), heaviest first. Where fewer than n concepts are
    present the rest have weight 0.
    """
    a = top_arguments(q, concepts, log_prior, scale=scale, n=n)
    with torch.no_grad():
        return TOP(a)


def _in_torch(a: Arguments) -> tuple[Tensor, Tensor]:
    """The result, and what the backward pass needs besides."""
    kept = torch.is_grad_enabled() and dense.pays(a)
    return dense.run(*a[:4]) if kept else torch_backend.run(a)  # type: ignore[return-value]


OP = Op(
    "knowledge_attention",
    arguments,
    (
        Backend("native", native.run, native.reasons, native.slower),
        Backend("triton", triton_backend.run, triton_backend.reasons),
        Backend("torch", _in_torch),
        Backend("definition", definition.knowledge_attention),
    ),
)
TOP = Op(
    "knowledge_top",
    top_arguments,
    (
        Backend("native", native.top, native.reasons),
        Backend("triton", torch_backend.run_top, triton_backend.no_top),
        Backend("torch", torch_backend.run_top),
        Backend("definition", definition.knowledge_top),
    ),
)
