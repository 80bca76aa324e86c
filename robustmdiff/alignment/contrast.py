"""Central alignment: what is of the same patient is close, what is of others is far (InfoNCE).

van den Oord et al. 2018; symmetric and with a learned temperature as in CLIP (Radford et al. 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FIRST, HIGHEST = math.log(1 / 0.07), math.log(100)  # of ln(1 / tau): where it starts, where it is stopped


def info_nce(a: Tensor, b: Tensor, log_scale: Tensor) -> Tensor:
    """The mean over both directions of -log softmax_j(cos(a_i, b_j) / tau)_i, a float [].

    a, b       float [N, d], row i of both of patient i. Cosines are taken, so that lengths do not count; a
               row of zeros has cosine 0 with everything.
    log_scale  [], ln(1 / tau)

    With N = 1 there is nobody to tell apart: 0. Where all rows are the same: ln N, and no gradient.
    Raises ValueError for shapes that differ and for N = 0.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) == 0:
        raise ValueError(f"info_nce: a is {list(a.shape)} and b {list(b.shape)}, expected both [N >= 1, d]")
    with torch.autocast(a.device.type, enabled=False):
        a, b = (functional.normalize(at_least_float32(x), dim=-1) for x in (a, b))
        logits = log_scale.exp() * a @ b.T  # [N, N]
        own = torch.arange(len(a), device=a.device)
        towards_b, towards_a = (functional.cross_entropy(x, own) for x in (logits, logits.T))
        return (towards_b + towards_a) / 2


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Contrast(nn.Module):
    """`info_nce` with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(FIRST))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return info_nce(a, b, self.log_scale)

    @torch.no_grad()
    def limit(self) -> None:
        """After a step: 1 / tau is at most 100. (A limit in the loss would have no gradient to leave it.)"""
        self.log_scale.clamp_(max=HIGHEST)
