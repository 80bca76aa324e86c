"""knowledge_attention in the situations that its backends are tested in."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops import knowledge_attention
from robustmdiff.testing.case import Case, draw


def knowledge_case(
    name: str, N: int, H: int, d: int, k: int, absent: list[int] | None, scale: float = 0.3
) -> Case:
    gone = torch.zeros(k, dtype=torch.bool)
    if absent:
        gone[absent] = True

    def plain(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None) -> Tensor:
        scores = torch.einsum("nhd,kd->nhk", q, concepts) * scale
        if log_prior is not None:
            scores = scores + log_prior
        scores = scores.masked_fill(gone.to(q.device), torch.finfo(q.dtype).min)
        weights = scores.softmax(-1) * ~gone.to(q.device)
        return torch.einsum("nhk,kd->nhd", weights, concepts)

    def run(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None) -> Tensor:
        if log_prior is not None:
            log_prior = log_prior.masked_fill(gone.to(q.device), -torch.inf)
        return knowledge_attention(q, concepts, log_prior, scale=scale)

    tensors = {"q": draw(N, H, d, seed=5), "concepts": draw(k, d, seed=6)}
    if absent is not None:
        tensors["log_prior"] = draw(k, seed=7)
    silent = torch.ones(N, dtype=torch.bool) if gone.all() else torch.zeros(N, dtype=torch.bool)
    return Case(
        "knowledge_attention", name, tensors, run, plain, {"concepts": gone, "log_prior": gone}, silent
    )


def cases() -> list[Case]:
    return [
        knowledge_case("no-prior", 5, 3, 7, 11, None),
        knowledge_case("prior", 5, 3, 7, 11, []),
        knowledge_case("some-absent", 5, 3, 7, 11, [0, 4, 10]),
        knowledge_case("nothing-present", 5, 3, 7, 2, [0, 1]),
        knowledge_case("one-concept", 2, 3, 7, 1, None),
        knowledge_case("no-rows", 0, 3, 7, 11, []),
        knowledge_case("one-row", 1, 1, 7, 11, []),
    ]
