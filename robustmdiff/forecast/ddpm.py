"""The paper's diffusion in the place of the flow: the same latent, the same condition, many steps."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.diffusion.loss import diffusion_loss
from robustmdiff.diffusion.precondition import Precondition
from robustmdiff.diffusion.recurrence import ddpm
from robustmdiff.diffusion.schedule import Level, Schedule
from robustmdiff.forecast.flow import FlowForecast, random_philox_key
from robustmdiff.labels import Labels
from robustmdiff.ops.philox import philox_normal


class DDPMForecast(FlowForecast):
    """DDPM with learned variance (Ho et al. 2020; Bao et al. 2022): the Gaussian's standardised residual,
    whose unit variance is that of the change as the Gaussian learned it, predicted as a velocity (Salimans
    and Ho 2022) and sampled in the steps of the schedule."""

    def __init__(
        self,
        latent: int,
        modalities: int,
        classes: int,
        labels: Labels,
        *,
        schedule: Schedule,
    ) -> None:
        steps = ddpm(schedule, variance=1.0)
        super().__init__(latent, modalities, classes, labels, steps=steps)
        self.schedule = schedule

    def loss(self, z: Tensor, told: Tensor) -> Tensor:
        t = torch.randint(self.schedule.T, (len(z),), device=z.device)
        key = random_philox_key(z.device)
        return diffusion_loss(self.denoise, self.schedule, z, t, told, key=key)[0].mean()

    def denoise(self, x: Tensor, level: Level, told: Tensor) -> Tensor:
        """The estimate of z ~ N(0, 1) [rows, D]; its exact one before anything is learned."""
        p = Precondition.of_gaussian(level, x.new_ones(1))
        return p.c_skip * x + p.c_out * self.network(p.c_in * x, p.c_noise, told)

    def steps(self, draws: int, key: Tensor) -> Tensor:
        """Noise of every step, float32 [steps, S, D]: what S draws of the key are made of on their way."""
        T, D = len(self.schedule.table), self.latent
        row_ids = torch.arange(draws, device=key.device)
        each = [philox_normal(key, torch.full_like(row_ids, i), row_ids, D) for i in range(T)]
        return torch.stack(each).float()
