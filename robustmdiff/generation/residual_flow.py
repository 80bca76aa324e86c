"""A rectified flow on what a draft leaves open of a latent: the detail that no regression can know."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.diffusion.loss import flow_loss
from robustmdiff.diffusion.sample import pure_noise, sample_heun
from robustmdiff.diffusion.schedule import Level, StraightPath
from robustmdiff.generation.networks.grid import GridNetwork

LEAST = 1e-4  # variance of a channel, in units of s^2: a draft may know one exactly
NARROWEST, WIDEST = 0.25, 4.0
AT_ONCE = 128  # rows that are sampled side by side
DRAWS, ROUNDS = 4, 2  # of `fit_width`


class Known(NamedTuple):
    """What a draw is made around.

    draft   [n, c, h, w], the mean that a regression or a global latent gives
    beside  [n, b, h, w], what else is known pixel for pixel
    told    [n, k], and of the image as a whole
    """

    draft: Tensor
    beside: Tensor
    told: Tensor

    def repeat(self, draws: int) -> Known:
        """Each row so many times, one after the other."""
        return Known(*(each.repeat_interleave(draws, dim=0) for each in self))


class ResidualFlow(nn.Module):
    """z = draft + s r, and r given the draft by a rectified flow (Liu et al. 2023) on a grid.

    Most of r is noise that is nearly Gaussian, of another variance in each channel. Of that Gaussian the flow
    is known: with total_t = (1 - t)^2 variance + t^2, it leaves y = x_t / total_t^.5 where it is. So the
    network F is preconditioned by it (as Karras et al. 2022 do, by a variance for each channel):

        dx / dt = (t - (1 - t) variance) / total_t x + (variance / total_t)^.5 F(y; t)
        dy / dt = variance^.5 / total_t F(y; t)

    and samples are drawn along y, where the steps are the network's alone: the draws of an F that has
    learned nothing have the residual's variance after any number of steps.

    latent  shape of a z, [c, h, w]
    beside  channels of `Known.beside`, told  numbers of `Known.told`
    s       [], one unit for all channels, so that in the loss noise counts as little as it shows
    width   [c], how many times as far as N(0, 1) the noise goes that a draw starts from: 1 until fitted on
            images that the flow was not learned from (`fit_width`)
    """

    s: Tensor
    variance: Tensor
    width: Tensor

    def __init__(
        self, latent: tuple[int, ...], beside: int, told: int = 0, widths: tuple[int, int] = (32, 64)
    ) -> None:
        super().__init__()
        c = latent[0]
        self.network = GridNetwork((2 * c + beside, c), told, widths)
        self.register_buffer("s", torch.ones(()))
        self.register_buffer("variance", torch.ones(c))
        self.register_buffer("width", torch.ones(c))

    def fit(self, residual: Tensor) -> None:
        """Measures s and the variances on residuals z - draft, [n, c, h, w]."""
        square = residual.double().square().mean((0, 2, 3))
        self.s.copy_(square.mean().sqrt())
        self.variance.copy_((square / square.mean()).clamp(min=LEAST))

    def loss(self, z: Tensor, t: Tensor, known: Known, *, key: Tensor, row_ids: Tensor) -> Tensor:
        """That of the flow (`flow_loss`) for latents z [n, c, h, w] at times t [n] -> [n]."""
        return flow_loss(self.velocity, (z - known.draft) / self.s, t, known, key=key, row_ids=row_ids)

    def velocity(self, x: Tensor, level: Level, known: Known) -> Tensor:
        """dx / dt [n, c, h, w]."""
        variance, t = self.variance.view(-1, 1, 1), level.t.view(-1, 1, 1, 1)
        total = (1 - t).square() * variance + t.square()
        linear = (t - (1 - t) * variance) / total
        return linear * x + (variance / total).sqrt() * self.says(x * total.rsqrt(), level, known)

    def turn(self, y: Tensor, level: Level, known: Known) -> Tensor:
        """dy / dt [n, c, h, w]."""
        variance, t = self.variance.view(-1, 1, 1), level.t
        total = (1 - t).square() * variance + t.square()
        return variance.sqrt() / total * self.says(y, level, known)

    def says(self, y: Tensor, level: Level, known: Known) -> Tensor:
        """F(y; t)"""
        return self.network(torch.cat([y, known.draft, known.beside], dim=1), level.t, known.told)

    def sample(
        self, known: Known, draws: int, steps: int, *, key: Tensor, row_ids: Tensor | None = None
    ) -> Tensor:
        """Draws of z, [n, draws, c, h, w], in so many steps of Heun's method, two evaluations each.

        key int64 [2]; row_ids int64 [n]: a draw depends on its row's id and its own number, not on how many
        others there are.
        """
        further = key.new_tensor([0, 1])
        noise = torch.stack(
            [pure_noise(known.draft, key + d * further, row_ids) for d in range(draws)], dim=1
        )
        y = noise.flatten(0, 1) * self.width.view(-1, 1, 1)
        batches = zip(y.split(AT_ONCE), *(each.split(AT_ONCE) for each in known.repeat(draws)), strict=True)
        path = StraightPath(steps)
        y = torch.cat([sample_heun(self.turn, path, start, Known(*rest)) for start, *rest in batches])
        r = self.variance.sqrt().view(-1, 1, 1) * y
        return known.draft[:, None] + self.s * r.view_as(noise)

    @torch.no_grad()
    def fit_width(
        self, z: Tensor, known: Known, steps: int, *, key: Tensor, row_ids: Tensor
    ) -> dict[str, float]:
        """Makes the draws of latents z [n, c, h, w] that the flow was not learned from as wide as they have
        to be, in each channel: their variance becomes the squared error that the mean of infinitely many
        would have. The draft knows by heart what it was learned from, so the flow has seen too little of
        what it leaves open of somebody new.

        -> the squared error of the mean of DRAWS, and spread over skill, (DRAWS + 1) / DRAWS times their
        variance over it (Fortin et al. 2014, eq. 15), with the width of 1 and with the one that was fitted
        """
        self.width.fill_(1)
        ratio = []
        for last in [False] * ROUNDS + [True]:
            draws = self.sample(known, DRAWS, steps, key=key, row_ids=row_ids)
            error = (draws.mean(1) - z).square().mean((0, 2, 3))  # [c]
            variance = draws.var(1).mean((0, 2, 3))
            ratio.append(float((DRAWS + 1) / DRAWS * variance.mean() / error.mean()))
            if not last:
                wider = ((error - variance / DRAWS).clamp(min=0) / variance).sqrt()
                self.width.mul_(wider).clamp_(NARROWEST, WIDEST)
        return {"error": float(error.mean()), "spread_over_skill": ratio[-1], "of_width_1": ratio[0]}
