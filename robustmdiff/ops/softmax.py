"""The softmax of the definitions."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.registration import NOTHING


def softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """scores [..., n] -> weights [..., n], and their log-sum-exp [...], which carries no gradient.

    A row of nothing but -inf, or of nothing at all, weighs 0 everywhere; its log-sum-exp is NOTHING
    and its gradient 0.
    """
    nothing = (scores == -torch.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    return weights, scores.detach().logsumexp(-1).clamp(min=NOTHING)
