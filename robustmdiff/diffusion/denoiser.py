"""The denoiser of the latent: what it is told is what was observed, and which view is asked for."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from robustmdiff.diffusion.precondition import Precondition
from robustmdiff.diffusion.schedule import Level
from robustmdiff.nn import MaskedCrossModalAttention, Memory
from robustmdiff.ops.chain import BlockWeights, LinearWeights
from robustmdiff.ops.chain.definition import block

MOVED = 0.3  # sigma before anything is learned, in units of the latent
STILL = 0.02  # sigma where nothing is added; 0 would leave nothing to divide by


class Condition(NamedTuple):
    """All that stays the same over a chain; rows of x belong to these B patients in their order, S = rows / B
    each.

    x_m     [B, latent], the observed latent
    spread  [B, latent], the variance of x_0 around it
    told    [B, width], what is observed and what is asked for, before the time is added
    memory  keys and values of the patients' tokens
    """

    x_m: Tensor
    spread: Tensor
    told: Tensor
    memory: Memory


class Block(nn.Module):
    """A residual layer whose norm is shifted and scaled by the condition (Peebles and Xie 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(width, 2 * width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        return block(h, c, self.weights())

    def weights(self) -> BlockWeights:
        return BlockWeights(*(weights_of(layer) for layer in (self.modulate, self.up, self.down)))


def weights_of(layer: nn.Linear) -> LinearWeights:
    return LinearWeights(layer.weight, layer.bias)


class LatentDenoiser(nn.Module):
    """The estimate of x_0 given x_t and what was observed: x_m, m, the tokens.

    x_m is the observed latent, m what was observed, m' the view that is asked for (all of it for
    a diagnosis, m and one modality more for the next test). How far a fuller view moves the latent
    is learned first of all: x_0 ~ N(x_m, sigma^2), sigma^2 by what is there and what is added. The
    network is preconditioned by that Gaussian, so before it has learned anything it is the
    Gaussian's exact denoiser, and where nothing is added the draws stay at what is known.
    """

    def __init__(self, latent: int, d_h: int, modalities: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.log_variance = nn.Linear(2 * modalities, latent)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, 2 * math.log(MOVED))
        self.enter = nn.Linear(latent, width)
        self.condition = nn.Sequential(
            nn.Linear(latent + 2 * modalities + width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.query = nn.Linear(width, d_h)
        self.read = MaskedCrossModalAttention(d_h, heads, modalities=modalities)
        self.use = nn.Linear(d_h, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.Linear(width, latent)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def variance(self, m: Tensor, view: Tensor) -> Tensor:
        """sigma^2 of x_0 - x_m: m and view bool [..., M] -> [..., latent]."""
        added = view & ~m
        told = torch.cat([m, added], dim=-1).to(self.leave.weight.dtype)
        moved = self.log_variance(told).clamp(max=2.0).exp()
        return STILL**2 + moved * added.any(-1, keepdim=True)

    def condition_on(
        self, x_m: Tensor, m: Tensor, view: Tensor, tokens: Tensor, segments: Tensor
    ) -> Condition:
        """x_m [B, latent], m and view bool [B, M]; tokens and segments as in Encoded."""
        first = self._first
        told = torch.cat([x_m, m, view], dim=-1)
        return Condition(
            x_m,
            self.variance(m, view),
            linear(told, first.weight[:, : told.shape[1]], first.bias),
            self.read.remember(tokens, segments),
        )

    def forward(self, x: Tensor, level: Level, condition: Condition) -> Tensor:
        """x [B S, latent] at one level, or at one for each row -> the estimate of x_0 [B S, latent]."""
        B = len(condition.x_m)
        S = len(x) // B if B else 0
        level = Level(*(each.view(B, S) if each.dim() else each.view(1, 1) for each in level))
        p = Precondition.of_gaussian(level, condition.spread[:, None])
        x_m = condition.x_m[:, None]
        y = x.view(B, S, x.shape[1]) - level.a.unsqueeze(-1) * x_m
        c = self._embed(p.c_noise, condition.told)
        h = self.enter(p.c_in * y)
        rows = torch.arange(B, device=x.device, dtype=torch.int32) * S
        own = torch.stack([rows, torch.full_like(rows, S)], dim=-1)[:, None]  # a patient's draws: one segment
        read = self.read.recall(condition.memory, self.query(h + c).flatten(0, 1), own)
        h = h + self.use(read).view(B, S, self.width)
        for layer in self.blocks:
            h = layer(h, c)
        return (x_m + p.c_skip * y + p.c_out * self.leave(h)).view_as(x)

    def _embed(self, t: Tensor, told: Tensor) -> Tensor:
        """t [B, S] or [1, 1], told [B, width] -> [B, S, width], or [B, 1, width] at one level."""
        time = linear(sinusoid(t, self.width).to(told.dtype), self._first.weight[:, -self.width :])
        return self.condition[1:](told[:, None] + time)

    @property
    def _first(self) -> nn.Linear:
        """What is told before the time is, and the time, are two parts of one product."""
        return cast(nn.Linear, self.condition[0])


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Time embedding [..., width] (Vaswani et al. 2017, section 3.5; period up to 10,000)."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angle = t.unsqueeze(-1) * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
