"""Noise levels: x_t = a x_0 + s eps, and the steps at which a sampler stops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from robustmdiff.ops import ddpm_table
from robustmdiff.ops.ddpm.table import Coefficients


class Level(NamedTuple):
    """How noisy x_t = a x_0 + s eps is; t is what a network is told. Three tensors of one shape: []
    where all rows stand at one level, [rows] in training."""

    t: Tensor
    a: Tensor
    s: Tensor


class Path(Protocol):
    """The levels at which a sampler stops, the noisiest first; each field [steps]."""

    @property
    def levels(self) -> Level: ...


def along(levels: Level) -> Iterator[Level]:
    """One level after the other."""
    return (Level(*each) for each in zip(*levels, strict=True))


@dataclass(frozen=True)
class Schedule:
    """q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I), t = 0 to T - 1 (Ho et al. 2020, eq. 2), and
    the `steps` timesteps at which a sampler stops.

    beta_schedule  "linear": 1e-4 to 0.02 (Ho et al. 2020, section 4); "scaled_linear": sqrt(beta) from
                   sqrt(0.00085) to sqrt(0.012) (Rombach et al. 2022); "cosine": Nichol and Dhariwal
                   2021, eq. 17, beta at most 0.999.
    """

    T: int = 1000
    beta_schedule: str = "cosine"
    steps: int = 8
    variance_type: str = "fixed_small"

    @cached_property
    def betas(self) -> Tensor:
        """float32 [T]."""
        if self.beta_schedule == "linear":
            return torch.linspace(1e-4, 0.02, self.T, dtype=torch.float32)
        if self.beta_schedule == "scaled_linear":
            return torch.linspace(0.00085**0.5, 0.012**0.5, self.T, dtype=torch.float32).square()

        def alpha_bar(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - alpha_bar((t + 1) / self.T) / alpha_bar(t / self.T), 0.999) for t in range(self.T)]
        return torch.tensor(betas, dtype=torch.float32)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """float32 [T], alpha_bar_t."""
        return (1 - self.betas).cumprod(0)

    def at(self, t: Tensor) -> Level:
        """The levels of timesteps t, int64 [...], on its device: q(x_t | x_0) = N(a x_0, s^2 I), what all
        steps q(x_t | x_{t-1}) up to t make of x_0 (Ho et al. 2020, eq. 4)."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        return Level(t, alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    @cached_property
    def timesteps(self) -> Tensor:
        """int64 [steps], descending from T - 1. Few steps are spaced quadratically (Song et al. 2021,
        appendix D.3): what a latent with a small spread needs is low noise levels."""
        if self.steps == self.T:
            return torch.arange(self.T - 1, -1, -1)
        left = torch.arange(self.steps, 0, -1) / self.steps
        spaced = (left.square() * (self.T - 1)).round().long()
        return torch.maximum(spaced, torch.arange(self.steps - 1, -1, -1))  # no timestep twice

    @property
    def levels(self) -> Level:
        """Each [steps]."""
        return self.at(self.timesteps)

    @property
    def config(self) -> Schedule:
        """As `ddpm_table` and diffusers ask for it."""
        return self

    @cached_property
    def table(self) -> Tensor:
        """float32 [steps, 8], what an ancestral `ddpm_step` needs of each step."""
        return ddpm_table(self)

    @cached_property
    def noising(self) -> Tensor:
        """float32 [T, 8] for `ddpm_noise`: row t is timestep t."""
        levels = self.at(torch.arange(self.T))
        blank = torch.zeros(self.T)
        return torch.stack([levels.a, levels.s, *[blank] * (len(Coefficients._fields) - 2)], dim=1)


@dataclass(frozen=True)
class StraightPath:
    """Rectified flow (Liu et al. 2023): x_t = (1 - t) x_0 + t eps, t from 1 down in equal steps. On this
    path an Euler step of the flow is a step of `sample_ddim`."""

    steps: int = 8

    @cached_property
    def levels(self) -> Level:
        """Each float32 [steps]."""
        t = torch.arange(self.steps, 0, -1) / self.steps
        return Level(t, 1 - t, t)


def deterministic_table(path: Path) -> Tensor:
    """float32 [steps, 8] for `ddpm_step`, the step of DDIM (Song et al. 2021, eq. 12, eta = 0) to the next
    level of the path, and from its last level to x_0:

        x' = a' x_0 + s' eps,  eps = (x_t - a x_0) / s
    """
    _, a, s = (each.double() for each in path.levels)
    a_next, s_next = torch.cat([a[1:], a.new_ones(1)]), torch.cat([s[1:], s.new_zeros(1)])
    blank = torch.zeros_like(a)
    return torch.stack(
        Coefficients(
            sqrt_alpha_bar=a,
            sqrt_beta_bar=s,
            weight_x0=a_next - s_next * a / s,
            weight_xt=s_next / s,
            sigma=blank,
            log_variance_min=blank,
            log_variance_max=blank,
            successor=torch.arange(1, len(a) + 1),
        ),
        dim=1,
    ).float()
