"""The denoiser of the latent: what it is told is what was observed, and which view is asked for."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustmdiff.nn import MaskedCrossModalAttention

MOVED = 0.3  # sigma before anything is learned, in units of the latent
STILL = 0.02  # sigma where nothing is added; 0 would leave nothing to divide by


class Block(nn.Module):
    """A residual layer whose norm is shifted and scaled by the condition (Peebles and Xie 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulate(c).chunk(2, dim=-1)
        return h + self.down(nn.functional.gelu(self.up(self.norm(h) * (1 + scale) + shift)))


class LatentDenoiser(nn.Module):
    """v_theta(x_t, t | x_m, m, m', tokens): the velocity of Salimans and Ho 2022, eq. 11.

    x_m is the observed latent, m what was observed, m' the view that is asked for (all of it for
    a diagnosis, m and one modality more for the next test). How far a fuller view moves the latent
    is learned first of all: x_0 ~ N(x_m, sigma^2), sigma^2 by what is there and what is added. The
    network is preconditioned by that Gaussian (Karras et al. 2022, section 5, around x_m rather
    than 0), so before it has learned anything it is the Gaussian's exact denoiser, and where
    nothing is added the draws stay at what is known.
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

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        alpha_bar: Tensor,
        x_m: Tensor,
        m: Tensor,
        view: Tensor,
        tokens: Tensor,
        segments: Tensor,
    ) -> Tensor:
        """x_t [B, S, latent], t and alpha_bar [B, S], x_m [B, latent], m and view bool [B, M];
        tokens and segments as in Encoded -> v [B, S, latent]."""
        B, S, _ = x_t.shape
        a, s = alpha_bar.sqrt().unsqueeze(-1), (1 - alpha_bar).sqrt().unsqueeze(-1)
        x_m, variance = x_m[:, None], self.variance(m, view)[:, None]
        D = a.square() * variance + s.square()  # of x_t around a x_m
        told = torch.cat(
            [
                torch.cat([x_m, m[:, None], view[:, None]], dim=-1).expand(B, S, -1),
                sinusoid(t, self.width).to(x_m.dtype),
            ],
            dim=-1,
        )
        c = self.condition(told)
        h = self.enter((x_t - a * x_m) / D.sqrt())
        rows = torch.arange(B, device=x_t.device, dtype=torch.int32) * S
        own = torch.stack([rows, torch.full_like(rows, S)], dim=-1)[:, None]  # a patient's draws: one segment
        read = self.read(tokens, segments, queries=self.query(h + c).reshape(B * S, -1), query_segments=own)
        h = h + self.use(read).view(B, S, -1)
        for block in self.blocks:
            h = block(h, c)
        gaussian = (a * s * (1 - variance) * x_t - s * x_m) / D
        return gaussian + (variance / D).sqrt() * self.leave(h)


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Time embedding [..., width] (Vaswani et al. 2017, section 3.5; period up to 10,000)."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angle = t.unsqueeze(-1) * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
