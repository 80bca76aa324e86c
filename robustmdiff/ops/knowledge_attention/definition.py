"""What knowledge_attention means: dense maths, any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.knowledge_attention.absent import absent_concepts
from robustmdiff.ops.registration import lse_dtype
from robustmdiff.ops.softmax import softmax


def knowledge_attention(
    q: Tensor,  # [N, H, d]
    concepts: Tensor,  # [k, d]
    log_prior: Tensor | None,  # [k]
    scale: float,
) -> tuple[Tensor, Tensor]:
    weights, lse, K = _attend(q, concepts, log_prior, scale)
    return torch.einsum("nhk,kd->nhd", weights, K).to(q.dtype), lse


def knowledge_top(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float, n: int
) -> tuple[Tensor, Tensor]:
    weights, _, _ = _attend(q.detach(), concepts.detach(), log_prior, scale)
    weight, index = weights.detach().sort(dim=-1, descending=True, stable=True)
    return index[..., :n].contiguous(), weight[..., :n].contiguous()


def _attend(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [N, H, k], log-sum-exp [N, H], K in the dtype of both, 0 where a concept is absent."""
    dtype = lse_dtype(q.dtype)
    absent, K = absent_concepts(log_prior), concepts.to(dtype)
    if absent is not None:
        K = K.masked_fill(absent[:, None], 0)
    scores = torch.einsum("nhd,kd->nhk", q.to(dtype), K) * scale
    if log_prior is not None:
        scores = scores + log_prior.to(dtype)
    return *softmax(scores), K
