"""The forward process q(x_t | x_0) and the sampling steps, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robustmdiff.ops import ddpm_table


@dataclass(frozen=True)
class Schedule:
    """beta_1..beta_T and the `steps` timesteps at which a sampler stops.

    beta_schedule  "linear": 1e-4 to 0.02 (Ho et al. 2020, section 4); "cosine": Nichol and
                   Dhariwal 2021, eq. 17, beta at most 0.999.
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

        def alpha_bar(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - alpha_bar((t + 1) / self.T) / alpha_bar(t / self.T), 0.999) for t in range(self.T)]
        return torch.tensor(betas, dtype=torch.float32)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """float32 [T], alpha_bar_t."""
        return (1 - self.betas).cumprod(0)

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
    def config(self) -> Schedule:
        """As `ddpm_table` and diffusers ask for it."""
        return self

    @cached_property
    def table(self) -> Tensor:
        """float32 [steps, 8], what `ddpm_step` needs of each timestep."""
        return ddpm_table(self)
