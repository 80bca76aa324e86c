"""L_diff."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.diffusion.sample import Denoise
from robustmdiff.diffusion.schedule import Schedule
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
