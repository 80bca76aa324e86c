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


def fullest(views: Tensor, m: Tensor) -> Tensor:
    """The largest of the views [VIEWS, M] that holds m, bool [..., M]; m itself if none does."""
    holds = held_by(views, m)
    best = (views.sum(-1) * holds).argmax(-1)  # the more frequent of equals
    any_holds = holds.any(-1, keepdim=True)
    return (any_holds & views[best]) | (~any_holds & m)


def between(m: Tensor, kept: Tensor, u: Tensor) -> Tensor:
    """The teacher's view, that holds at least what is kept: half the time all that was observed, else
    something in between, so that one modality more can be asked for.

    m and kept bool [B, M], u uniform in [0, 1) [B, 1 + M] -> bool [B, M].
    """
    more = (u[:, :1] < 0.5) | (u[:, 1:] < 0.5)
    return m & (kept | more)
