"""Samplers as recurrences: what `ops.chain` does after each evaluation of its network.

A sampler of `sample.py` is linear in x and in the network's output, so that a whole chain is a table and a
time for each evaluation. Each function here is the sampler of that name there, its coefficients multiplied
out: of a network that says the velocity of a rectified flow (`euler`, `heun`), or of one preconditioned for
x_0 ~ N(0, variance), x_0 = c_skip x + c_out F(c_in x; c_noise) (`ddpm`, `ddim`, `dpmpp_2m`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from robustmdiff.diffusion.precondition import Precondition
from robustmdiff.diffusion.sample import reverse_variance
from robustmdiff.diffusion.schedule import Level, Schedule, StraightPath, along, deterministic_table
from robustmdiff.ops.chain import Recurrence
from robustmdiff.ops.ddpm.table import Coefficients


class Steps(NamedTuple):
    """t [E], what the network is told of the time, and the table [E, 6] of `ops.chain`; float32, CPU."""

    t: Tensor
    table: Tensor


def euler(path: StraightPath, unit: float) -> Steps:
    """The Euler steps of a rectified flow (`sample_ddim` on its path): x_1 = x_0 + h v_0. The network is told
    unit t."""
    stops = [*path.levels.t.double().tolist(), 0.0]
    rows = [row(x=1, output=there - here) for here, there in pairwise(stops)]
    return Steps(unit * path.levels.t, torch.tensor(rows))


def heun(path: StraightPath, unit: float) -> Steps:
    """`sample_heun`: x_1 = x_0 + h v_0, then x_2 = x_0 + h (v_0 + v_1) / 2 = (x_0 + x_1 + h v_1) / 2. The
    network is told unit t."""
    stops = [*path.levels.t.double().tolist(), 0.0]
    rows, t = [], []
    for here, there in pairwise(stops):
        h = there - here
        rows += [row(x=1, output=h), row(x=0.5, output=h / 2, x_before=0.5)]
        t += [unit * here, unit * there]
    return Steps(torch.tensor(t), torch.tensor(rows))


def ddpm(schedule: Schedule, variance: float) -> Steps:
    """`sample_ddpm`, the spread being the variance."""
    spread = torch.tensor([variance], dtype=torch.float64)
    table = schedule.table.double()
    sigma = [float(reverse_variance(each, spread)) ** 0.5 if each[SIGMA] > 0 else 0.0 for each in table]
    return _of_estimates(schedule, table, variance, [0.0] * len(table), sigma)


def ddim(schedule: Schedule, variance: float) -> Steps:
    """`sample_ddim`."""
    table = deterministic_table(schedule).double()
    return _of_estimates(schedule, table, variance, [0.0] * len(table), [0.0] * len(table))


def dpmpp_2m(schedule: Schedule, variance: float) -> Steps:
    """`sample_dpmpp_2m`: x_0 is carried on by r times its last change."""
    table = deterministic_table(schedule).double()
    lam = [float(level.a.double().log() - level.s.double().log()) for level in along(schedule.levels)]
    r = [0.0] * len(table)
    for i in range(1, len(table) - 1):
        r[i] = (lam[i + 1] - lam[i]) / (2 * (lam[i] - lam[i - 1]))
    return _of_estimates(schedule, table, variance, r, [0.0] * len(table))


X0, XT, SIGMA = (Coefficients._fields.index(name) for name in ("weight_x0", "weight_xt", "sigma"))


def _of_estimates(
    schedule: Schedule, table: Tensor, variance: float, r: Sequence[float], sigma: Sequence[float]
) -> Steps:
    """x_{e+1} = w_0 (x_0 + r (x_0 - x_0 before)) + w_t x_e + sigma z, x_0 being the estimates."""
    center = torch.tensor([variance], dtype=torch.float64)
    rows, skip_before, out_before = [], 0.0, 0.0
    for e, level in enumerate(along(schedule.levels)):
        p = Precondition.of_gaussian(Level(level.t, level.a.double(), level.s.double()), center)
        skip, out = float(p.c_skip), float(p.c_out)
        w_0, w_t = table[e, X0].item(), table[e, XT].item()
        rows.append(
            row(
                input=float(p.c_in),
                x=w_0 * (1 + r[e]) * skip + w_t,
                output=w_0 * (1 + r[e]) * out,
                x_before=-w_0 * r[e] * skip_before,
                output_before=-w_0 * r[e] * out_before,
                sigma=sigma[e],
            )
        )
        skip_before, out_before = skip, out
    return Steps(schedule.timesteps.float(), torch.tensor(rows))


def row(
    x: float,
    output: float,
    *,
    input: float = 1.0,
    x_before: float = 0.0,
    output_before: float = 0.0,
    sigma: float = 0.0,
) -> Recurrence:
    return Recurrence(input, x, output, x_before, output_before, sigma)
