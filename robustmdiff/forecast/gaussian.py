"""A Gaussian that is told the class: the class first, then the latent given it.

    p(y' | x_m) = sum_c p(c | x_m) p(y' | x_m, c)

Most of what is open about a patient is which disease it is; given that, what is left is nearly unimodal.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.diffusion.sample import pure_noise
from robustmdiff.forecast.contract import Forecast, Pairs, Seen
from robustmdiff.forecast.fitting import drawing_by, fit
from robustmdiff.forecast.told import CLASS_UNIT, Standardise, of_view, uniform_of_classes
from robustmdiff.labels import Labels

WIDTH = 128
DROPOUT = 0.1
LOG_VARIANCE = -6.0, 3.0  # of a standardised change


class Noise(NamedTuple):
    """What S draws are made of.

    u      uniform numbers that decide the classes (`told.uniform_of_classes`).
    z      [S, D], N(0, 1).
    key    int64 [2], by which a chain draws on its way.
    steps  [T, S, D], instead: what it draws in each step.
    """

    u: Tensor
    z: Tensor
    key: Tensor | None = None
    steps: Tensor | None = None


class GaussianNetwork(nn.Module):
    """What it is told [..., f] -> mean and log variance [..., D] of a standardised change, 0 both before
    anything is learned."""

    def __init__(self, told: int, latent: int) -> None:
        super().__init__()
        leave = nn.Linear(WIDTH, 2 * latent)
        nn.init.zeros_(leave.weight)
        nn.init.zeros_(leave.bias)
        self.layers = nn.Sequential(
            *(nn.Linear(told, WIDTH), nn.GELU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(DROPOUT)),
            leave,
        )

    def forward(self, told: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(told).chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE)


class GaussianForecast(Forecast):
    """The change y' - y_m given the class is Gaussian, its mean and variances by a network.

    latent D, modalities M, classes C. `spread` [] is how many times as far from the
    mean someone new is as those learned from, whom networks soon know by heart: 1 until it is set.
    """

    spread: Tensor

    def __init__(self, latent: int, modalities: int, classes: int, labels: Labels) -> None:
        super().__init__()
        self.latent, self.labels = latent, labels
        self.register_buffer("spread", torch.ones(()))
        size = latent + 2 * modalities + 1
        self.told, self.told_size = Standardise(size), size + classes
        self.change = Standardise(latent)
        self.start()

    def start(self) -> None:
        """Networks that have learned nothing."""
        self.gaussian = GaussianNetwork(self.told_size, self.latent)

    def fit(self, pairs: Pairs, key: Tensor) -> None:
        """A class that nobody knows is told as its probability."""
        seen = pairs.seen
        holds = torch.where(pairs.known, pairs.label, seen.p)
        self.told.fit(of_view(seen, pairs.view))
        self.change.fit(pairs.y - seen.y)
        with drawing_by(key):
            self.start()
            self.to(pairs.y.device)
            told = self.tell(seen, pairs.view, holds)
            self.learn(told, self.change(pairs.y - seen.y), pairs.patient, pairs.watching)

    def learn(self, told: Tensor, change: Tensor, patient: Tensor, watching: Tensor) -> None:
        """From what is told [n, f] of each row and its standardised change [n, D]; patient and watching as in
        `Pairs`."""

        def surprise(rows: Tensor) -> Tensor:
            mean, log_variance = self.gaussian(told[rows])
            error = (change[rows] - mean).square()
            return (log_variance + error * (-log_variance).exp()).mean() / 2

        fit(self.gaussian, surprise, patient, watching, what="the Gaussian")

    def tell(self, seen: Seen, view: Tensor, holds: Tensor) -> Tensor:
        """[..., f] for classes that hold, [n, C] or [n, S, C]."""
        told = self.told(of_view(seen, view))
        if holds.dim() == 3:
            told = told[:, None].expand(*holds.shape[:2], -1)
        return torch.cat([told, CLASS_UNIT * holds], dim=-1)

    def noise(self, classes: int, draws: int, key: Tensor) -> Noise:
        u = uniform_of_classes(self.labels, classes, draws, key)
        return Noise(u, pure_noise(self.change.mean.expand(draws, -1), key), key)

    def sample(self, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        return self.made_of(self.noise(seen.p.shape[1], draws, key), seen, view)

    def made_of(self, noise: Noise, seen: Seen, view: Tensor) -> Tensor:
        """The draws [n, S, D] that noise becomes: the same for every patient."""
        n, S = seen.y.shape[0], noise.z.shape[0]
        holds = self.labels.drawn(seen.p, noise.u)
        told = self.tell(seen, view, holds).flatten(0, 1)  # [n S, f]
        mean, log_variance = self.gaussian(told)
        row_ids = torch.arange(S, device=told.device).repeat(n)
        z = self.residual(noise.z.repeat(n, 1), told, noise, row_ids)
        change = self.change.back(mean + self.spread * (log_variance / 2).exp() * z)
        return seen.y[:, None] + change.view(n, S, self.latent)

    def residual(self, x: Tensor, told: Tensor, noise: Noise, row_ids: Tensor) -> Tensor:
        """The standardised residual [rows, D] that is made of x, noise.z of each row: here x itself. On its
        way a row draws as row_ids [rows] says which of the S it is."""
        return x
