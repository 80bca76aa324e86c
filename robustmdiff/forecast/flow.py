"""A flow around the Gaussian: what a mean and a variance leave unsaid of the change."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from robustmdiff.diffusion.denoiser import Block, sinusoid, weights_of
from robustmdiff.diffusion.loss import flow_loss
from robustmdiff.diffusion.recurrence import Steps, heun
from robustmdiff.diffusion.schedule import Level, StraightPath
from robustmdiff.forecast.fitting import fit
from robustmdiff.forecast.gaussian import WIDTH, GaussianForecast, Noise
from robustmdiff.labels import Labels
from robustmdiff.ops import chain
from robustmdiff.ops.chain import NetworkWeights
from robustmdiff.ops.chain.definition import network

BLOCKS = 2
TIME = 32  # numbers that tell the time
TIME_UNIT = 1000.0  # a flow's t in [0, 1] as the timesteps that `sinusoid` is made for
FARTHEST = 6.0  # standard deviations; a residual beyond teaches nothing but itself
FOUR = heun(StraightPath(2), unit=TIME_UNIT)  # evaluations
STEPS, STEPS_A_PATIENT = 2700, 3  # of fitting; with 300 patients five a patient were worse, with 900 two


class ResidualNetwork(nn.Module):
    """F(x_t; t, told) [rows, D], 0 before anything is learned: residual blocks that the condition shifts and
    scales."""

    def __init__(self, told: int, latent: int) -> None:
        super().__init__()
        self.enter = nn.Linear(latent, WIDTH)
        self.condition = nn.Sequential(
            nn.Linear(told + TIME, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()
        )
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(BLOCKS))
        self.leave = nn.Linear(WIDTH, latent)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, t: Tensor, told: Tensor) -> Tensor:
        """x [rows, D], t [rows] or [], 0 to 1000, told [rows, f]."""
        return network(x, self.time(t).to(told.dtype), told, self.weights())

    def time(self, t: Tensor) -> Tensor:
        """t [...] -> [..., TIME]."""
        return sinusoid(t, TIME)

    def weights(self) -> NetworkWeights:
        first, _, second, _ = cast(list[nn.Linear], self.condition)
        told, condition, enter, leave = map(weights_of, (first, second, self.enter, self.leave))
        blocks = tuple(block.weights() for block in cast(list[Block], self.blocks))
        return NetworkWeights(told, condition, enter, blocks, leave)


class FlowForecast(GaussianForecast):
    """The Gaussian's standardised residual by a rectified flow (Liu et al. 2023), from noise in four
    evaluations."""

    def __init__(
        self,
        latent: int,
        modalities: int,
        classes: int,
        labels: Labels,
        *,
        steps: Steps = FOUR,
    ) -> None:
        """steps  of the chain that becomes a residual."""
        super().__init__(latent, modalities, classes, labels)
        self.follow(steps)

    def follow(self, steps: Steps) -> None:
        """From now on draw with these steps."""
        self.time, self.table = sinusoid(steps.t, TIME), steps.table

    def start(self) -> None:
        super().start()
        self.network = ResidualNetwork(self.told_size, self.latent)

    def learn(self, told: Tensor, change: Tensor, patient: Tensor, watching: Tensor) -> None:
        super().learn(told, change, patient, watching)
        with torch.no_grad():
            mean, log_variance = self.gaussian(told)
            z = ((change - mean) * (-log_variance / 2).exp()).clamp(-FARTHEST, FARTHEST)

        def loss(rows: Tensor) -> Tensor:
            return self.loss(z[rows], told[rows])

        what = "what it leaves open"
        fit(self.network, loss, patient, watching, what=what, steps=STEPS, steps_a_patient=STEPS_A_PATIENT)

    def loss(self, z: Tensor, told: Tensor) -> Tensor:
        t = torch.randn(len(z), device=z.device).sigmoid()
        return flow_loss(self.velocity, z, t, told, key=random_philox_key(z.device)).mean()

    def velocity(self, x: Tensor, level: Level, told: Tensor) -> Tensor:
        return self.network(x, TIME_UNIT * level.t, told)

    def residual(self, x: Tensor, told: Tensor, noise: Noise, row_ids: Tensor) -> Tensor:
        time, drawn = self.time.to(told), {"key": noise.key, "row_ids": row_ids}
        return chain(x, told, self.network.weights(), time, self.table, **drawn)


def random_philox_key(device: torch.device) -> Tensor:
    """int64 [2], by torch's own generator."""
    return torch.randint(2**31, (2,), device=device)
