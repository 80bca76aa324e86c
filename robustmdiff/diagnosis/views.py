"""Which modalities are asked for: the view m' under which the diffusion draws, and its teacher looks.

A view is a bool [M]. What training patients never had together was never seen together, so nothing is
known of how it would look: only their most frequent combinations, bool [VIEWS, M], can be asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

VIEWS = 64  # combinations of modalities remembered from training


def most_frequent(m: Tensor) -> Tensor:
    """The most frequent rows of m, bool [n, M], the most frequent first -> bool [VIEWS, M]; rows to spare
    hold nothing."""
    found, counts = m.unique(dim=0, return_counts=True)
    found = found[counts.argsort(descending=True, stable=True)][:VIEWS]
    return torch.cat([found, found.new_zeros(VIEWS - len(found), m.shape[1])])


def held_by(views: Tensor, m: Tensor) -> Tensor:
    """Which of the views [VIEWS, M] hold m, bool [..., M] -> [..., VIEWS]."""
    return (views | ~m.unsqueeze(-2)).all(-1)


def fullest(views: Tensor, m: Tensor, asked: Tensor | None = None) -> Tensor:
    """The largest of the views [VIEWS, M] that holds m, bool [..., M]; m itself if none does. Of a view only
    what is asked for, bool [..., M], is taken beside m; all of it unless given."""
    within = torch.ones_like(m) if asked is None else asked | m
    holds = held_by(views, m)
    size = (views & within.unsqueeze(-2)).sum(-1)
    best = (size * holds).argmax(-1)  # the more frequent of equals
    any_holds = holds.any(-1, keepdim=True)
    return (any_holds & views[best] & within) | (~any_holds & m)


def between(m: Tensor, kept: Tensor, u: Tensor) -> Tensor:
    """The teacher's view, that holds at least what is kept: half the time all that was observed, else
    something in between, so that one modality more can be asked for.

    m and kept bool [B, M], u uniform in [0, 1) [B, 1 + M] -> bool [B, M].
    """
    more = (u[:, :1] < 0.5) | (u[:, 1:] < 0.5)
    return m & (kept | more)
