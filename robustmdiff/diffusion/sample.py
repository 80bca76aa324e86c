"""Samplers. Each is a function of (denoise, path, x, condition, key) and knows no model.

denoise    (x_t, level, condition) -> the estimate of x_0, of x_t's shape.
path       where to stop: a `Schedule`, or any `Path`.
x          [rows, ...], noise: x_T. `pure_noise` draws it.
condition  whatever `denoise` wants; the same through the whole chain, so made once.

Every step is one `ddpm_step`: samplers differ in its table, and in what they take for x_0. `sample_heun`
alone follows a velocity instead.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from robustmdiff.diffusion.schedule import Level, Path, Schedule, StraightPath, along, deterministic_table
from robustmdiff.ops import ddpm_noise, ddpm_step
from robustmdiff.ops.ddpm.table import Coefficients

Denoise = Callable[[Tensor, Level, Any], Tensor]
Velocity = Callable[[Tensor, Level, Any], Tensor]  # dx_t / dt of a rectified flow: of x_t's shape


def sample_ddpm(
    denoise: Denoise,
    schedule: Schedule,
    x: Tensor,
    condition: Any = None,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    spread: Tensor | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) with the variance of eq. 7, which is that of a known
    x_0; `spread` [rows, ...], the variance of x_0 under the condition, adds what x_t leaves open."""
    table = schedule.table.to(x.device)
    for i, level in enumerate(along(schedule.levels)):
        x_0 = denoise(x, on(x, level), condition)
        log_variance = None if spread is None else reverse_variance(table[i], spread).log()
        x = step(x_0, x, i, table, key=key, row_ids=row_ids, log_variance=log_variance)
    return x


def sample_ddim(denoise: Denoise, path: Path, x: Tensor, condition: Any = None) -> Tensor:
    """DDIM with eta = 0 (Song et al. 2021, eq. 12). On a `StraightPath`, the Euler steps of a rectified flow
    (Liu et al. 2023), whose velocity is eps - x_0 = (x_t - x_0) / t."""
    table = deterministic_table(path).to(x.device)
    for i, level in enumerate(along(path.levels)):
        x = step(denoise(x, on(x, level), condition), x, i, table)
    return x


def sample_dpmpp_2m(denoise: Denoise, path: Path, x: Tensor, condition: Any = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the DDIM step with x_0 carried on along the line
    through its last two estimates, in lambda = log(a / s)."""
    table = deterministic_table(path).to(x.device)
    lam = [float(level.a.double().log() - level.s.double().log()) for level in along(path.levels)]
    before = None
    for i, level in enumerate(along(path.levels)):
        x_0 = denoise(x, on(x, level), condition)
        ahead = x_0
        if before is not None and i + 1 < len(lam):  # the last step is of first order: its h is infinite
            ahead = x_0 + (lam[i + 1] - lam[i]) / (2 * (lam[i] - lam[i - 1])) * (x_0 - before)
        x, before = step(ahead, x, i, table), x_0
    return x


def sample_heun(velocity: Velocity, path: StraightPath, x: Tensor, condition: Any = None) -> Tensor:
    """A rectified flow, dx = v dt, by Heun's method, which is of second order (Karras et al. 2022, algorithm
    1). Two evaluations a step, the last at t = 0: (x_t - x_0) / t is not defined there, and v is."""
    t, a, s = (each.to(x.device) for each in path.levels)
    stops = along(
        Level(*(torch.cat([each, each.new_tensor([end])]) for each, end in ((t, 0), (a, 1), (s, 0))))
    )
    for here, there in pairwise(stops):
        h = there.t - here.t
        v = velocity(x, here, condition)
        x = x + h / 2 * (v + velocity(x + h * v, there, condition))
    return x


def guided(denoise: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6) as a denoiser whose condition is a pair: what is
    asked for, and nothing. Guiding x_0 is guiding eps: one is linear in the other."""

    def run(x: Tensor, level: Level, condition: tuple[Any, Any]) -> Tensor:
        asked, nothing = (denoise(x, level, each) for each in condition)
        return nothing + scale * (asked - nothing)

    return run


def pure_noise(x: Tensor, key: Tensor, row_ids: Tensor | None = None) -> Tensor:
    """x_T ~ N(0, I) of the shape, dtype and device of x [rows, ...]. A row's noise depends on the key and its
    row id alone (Philox, see `robustmdiff.ops.philox`), and never is what a step of the chain draws."""
    nothing_else = torch.zeros(1, len(Coefficients._fields), device=x.device)
    nothing_else[:, Coefficients._fields.index("sqrt_beta_bar")] = 1
    first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return ddpm_noise(torch.zeros_like(x), first, nothing_else, key=key, row_ids=row_ids)


def on(x: Tensor, level: Level) -> Level:
    return Level(*(each.to(x.device) for each in level))


def step(
    x_0: Tensor,
    x: Tensor,
    i: int,
    table: Tensor,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    log_variance: Tensor | None = None,
) -> Tensor:
    """x at the next level, from the estimate of x_0: row i of the table, for all rows of x."""
    if key is None:  # the table draws nothing
        key = torch.zeros(2, dtype=torch.int64, device=x.device)
    row = torch.full((len(x),), i, device=x.device)
    drawn: dict[str, Any] = {"key": key, "row_ids": row_ids, "log_variance": log_variance}
    return ddpm_step(x_0, x, row, table, prediction="sample", **drawn)


def reverse_variance(row: Tensor, spread: Tensor) -> Tensor:
    """The variance of x_{t-1} given x_t when x_0 has the variance `spread` around what is known.

    That of Ho et al. 2020, eq. 7, is for a known x_0. What x_t leaves open of x_0 adds to it
    (Bao et al. 2022, theorem 1); with few steps most of the spread would be lost otherwise.
    """
    c = Coefficients(*row)
    a, s = c.sqrt_alpha_bar, c.sqrt_beta_bar
    left_open = spread * s.square() / (a.square() * spread + s.square())
    return c.log_variance_min.exp() + c.weight_x0.square() * left_open
