"""L_diff, and that of a flow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.diffusion.sample import Denoise, Velocity, pure_noise
from robustmdiff.diffusion.schedule import Level, Schedule
from robustmdiff.ops import ddpm_noise


def diffusion_loss(
    denoise: Denoise,
    schedule: Schedule,
    x_0: Tensor,
    t: Tensor,
    condition: Any = None,
    *,
    key: Tensor,
    row_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """L_diff = |v - v_hat|^2 of each row, the mean over its elements, for the velocity v = a eps - s x_0
    (Salimans and Ho 2022, section 4): |x_0 - x_hat|^2 / s^2, the "SNR + 1" weight.

    x_0 [rows, ...] and its timesteps t, int64 [rows]; key and row_ids as in `ddpm_noise`
    -> (loss [rows], x_hat [rows, ...], the estimate of x_0).
    """
    level = schedule.at(t)
    x_t = ddpm_noise(x_0, t, schedule.noising.to(x_0.device), key=key, row_ids=row_ids)
    x_hat = denoise(x_t, level, condition)
    return (x_hat - x_0).square().flatten(1).mean(1) / level.s.square(), x_hat


def flow_loss(
    velocity: Velocity,
    x_0: Tensor,
    t: Tensor,
    condition: Any = None,
    *,
    key: Tensor,
    row_ids: Tensor | None = None,
) -> Tensor:
    """|eps - x_0 - v|^2 of each row, the mean over its elements, at x_t = (1 - t) x_0 + t eps: flow matching
    on straight paths (Liu et al. 2023, eq. 1; Lipman et al. 2023, with t reversed).

    x_0 [rows, ...] and times t in [0, 1], float [rows]; key and row_ids as in `pure_noise` -> [rows].
    """
    x_t, wanted = on_straight_path(x_0, t, key=key, row_ids=row_ids)
    v = velocity(x_t, Level(t, 1 - t, t), condition)
    return (v - wanted).square().flatten(1).mean(1)


def on_straight_path(
    x_0: Tensor, t: Tensor, *, key: Tensor, row_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(x_t, its velocity eps - x_0); arguments as in `flow_loss`."""
    eps = pure_noise(x_0, key, row_ids)
    at = t.view(-1, *[1] * (x_0.dim() - 1))
    return (1 - at) * x_0 + at * eps, eps - x_0
