"""Samplers as recurrences: what `ops.chain` does after each evaluation of its network.

A sampler of `sample.py` is linear in x and in the network's output, so that a whole chain is a table and a
time for each evaluation. Each function here is the sampler of that name there, its coefficients multiplied
out.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from robustmdiff.diffusion.precondition import Precondition
from robustmdiff.diffusion.sample import reverse_variance
from robustmdiff.diffusion.schedule import Schedule, StraightPath, along
from robustmdiff.ops.chain import Recurrence
from robustmdiff.ops.ddpm.table import Coefficients


class Steps(NamedTuple):
    """t [E], what the network is told of the time, and the table [E, 6] of `ops.chain`; float32, CPU."""

    t: Tensor
    table: Tensor


def heun(path: StraightPath, unit: float) -> Steps:
    """`sample_heun` of a network that is told unit t: x_1 = x_0 + h v_0, then x_2 = x_0 + h (v_0 + v_1) / 2 =
    (x_0 + x_1 + h v_1) / 2."""
    stops = [*path.levels.t.double().tolist(), 0.0]
    rows, t = [], []
    for here, there in pairwise(stops):
        h = there - here
        rows += [
            Recurrence(input=1, x=1, output=h, x_before=0, output_before=0, sigma=0),
            Recurrence(input=1, x=0.5, output=h / 2, x_before=0.5, output_before=0, sigma=0),
        ]
        t += [unit * here, unit * there]
    return Steps(torch.tensor(t), torch.tensor(rows))


def ddpm(schedule: Schedule, variance: float) -> Steps:
    """`sample_ddpm` with the estimate x_0 = c_skip x + c_out F(c_in x; c_noise) of a network preconditioned
    for x_0 ~ N(0, variance), which also is the spread."""
    spread = torch.tensor([variance], dtype=torch.float64)
    rows = []
    for row, level in zip(schedule.table.double(), along(schedule.levels), strict=True):
        p = Precondition.of_gaussian(level._replace(a=level.a.double(), s=level.s.double()), spread)
        c = Coefficients(*row)
        sigma = float(reverse_variance(row, spread)) ** 0.5 if c.sigma > 0 else 0.0
        rows.append(
            Recurrence(
                input=float(p.c_in),
                x=float(c.weight_x0 * p.c_skip + c.weight_xt),
                output=float(c.weight_x0 * p.c_out),
                x_before=0,
                output_before=0,
                sigma=sigma,
            )
        )
    return Steps(schedule.timesteps.float(), torch.tensor(rows))
