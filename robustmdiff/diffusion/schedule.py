"""The forward process q(x_t | x_0) and the sampling steps, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """beta_1..beta_T and the `steps` timesteps at which a sampler stops.

    beta_schedule  "linear": 1e-4 to 0.02 (Ho et al. 2020, section 4); "cosine": Nichol and
                   Dhariwal 2021, eq. 17, beta at most 0.999.
    """

    T: int = 1000
    beta_schedule: str = "cosine"
    steps: int = 8

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
        """int64 [steps], descending from T - 1 to 0, evenly spaced ("trailing" spacing: the first
        step starts from pure noise)."""
        return torch.linspace(self.T - 1, 0, self.steps + 1).round().long()[:-1]
