"""What knowledge_attention means: dense maths, any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.knowledge_attention.absent import absent_concepts
from robustmdiff.ops.knowledge_attention.arguments import Arguments
from robustmdiff.ops.registration import lse_dtype
from robustmdiff.ops.softmax import softmax


def knowledge_attention(a: Arguments) -> tuple[Tensor, Tensor]:
    weights, lse, K = _attend(a.q, a.concepts, a)
    return torch.einsum("nhk,kd->nhd", weights, K).to(a.q.dtype), lse


def knowledge_top(a: Arguments) -> tuple[Tensor, Tensor]:
    weights, _, _ = _attend(a.q.detach(), a.concepts.detach(), a)
    weight, index = weights.detach().sort(dim=-1, descending=True, stable=True)
    return index[..., : a.n].contiguous(), weight[..., : a.n].contiguous()


def _attend(q: Tensor, concepts: Tensor, a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [N, H, k], log-sum-exp [N, H], K in the dtype of both, 0 where a concept is absent."""
    dtype = lse_dtype(q.dtype)
    absent, K = absent_concepts(a.log_prior), concepts.to(dtype)
    if absent is not None:
        K = K.masked_fill(absent[:, None], 0)
    scores = torch.einsum("nhd,kd->nhk", q.to(dtype), K) * a.scale
    if a.log_prior is not None:
        scores = scores + a.log_prior.to(dtype)
    return *softmax(scores), K
