"""What knowledge_attention means: dense maths, any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.registration import NOTHING, lse_dtype


def knowledge_attention(
    q: Tensor,  # [N, H, d]
    concepts: Tensor,  # [k, d]
    log_prior: Tensor | None,  # [k]
    scale: float,
) -> tuple[Tensor, Tensor]:
    dtype = lse_dtype(q.dtype)
    present = torch.arange(len(concepts), device=q.device)
    if log_prior is not None:
        present = present[log_prior > -torch.inf]
    if len(present) == 0:
        return q.new_zeros(q.shape), q.new_full(q.shape[:2], NOTHING, dtype=dtype)
    K = concepts[present].to(dtype)
    scores = torch.einsum("nhd,kd->nhk", q.to(dtype), K) * scale
    if log_prior is not None:
        scores = scores + log_prior[present].to(dtype)
    return torch.einsum("nhk,kd->nhd", scores.softmax(-1), K).to(q.dtype), scores.logsumexp(-1)


def knowledge_top(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float, n: int
) -> tuple[Tensor, Tensor]:
    dtype = lse_dtype(q.dtype)
    K = concepts.detach().to(dtype)
    if log_prior is None:
        log_prior = K.new_zeros(len(K))
    absent = log_prior == -torch.inf
    scores = torch.einsum("nhd,kd->nhk", q.detach().to(dtype), K.masked_fill(absent[:, None], 0)) * scale
    scores = scores + log_prior.detach().to(dtype)
    weight = scores.softmax(-1).nan_to_num(0)  # NaN where every concept is absent
    weight, index = weight.sort(dim=-1, descending=True, stable=True)
    return index[..., :n].contiguous(), weight[..., :n].contiguous()
