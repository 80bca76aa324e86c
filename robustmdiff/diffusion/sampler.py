"""Draws from p(x_0 | what was observed), all of a patient's draws side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.diffusion.denoiser import LatentDenoiser
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.ops import ddpm_noise, ddpm_step, philox_key
from robustmdiff.ops.ddpm.table import Coefficients


def sample_latent(
    denoiser: LatentDenoiser,
    schedule: Schedule,
    x_m: Tensor,
    m: Tensor,
    view: Tensor,
    tokens: Tensor,
    segments: Tensor,
    *,
    draws: int,
    seed: int,
    start: str = "noise",
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) over the schedule's steps, with the variance
    that is exact for the denoiser's Gaussian (see `reverse_variance`).

    x_m [B, D] the observed latent, m bool [B, M], view bool [B, M] the view that is asked for
    -> x_0 [B, S, D]. Draw s uses the same noise for every patient, so an answer depends neither
    on the batch nor on its order. start "observed" begins half way, at the noised x_m.
    """
    B, D = x_m.shape
    device = x_m.device
    table, timesteps = schedule.table.to(device), schedule.timesteps.to(device)
    alpha_bar = schedule.alphas_cumprod.to(device)[timesteps]
    key = philox_key(seed, device=device)
    row_ids = torch.arange(draws, device=device).repeat(B)
    first = schedule.steps // 2 if start == "observed" else 0
    step = torch.full((B * draws,), first, dtype=torch.int64, device=device)
    x = ddpm_noise(x_m.repeat_interleave(draws, 0), step, table, key=key, row_ids=row_ids)
    spread = denoiser.variance(m, view).repeat_interleave(draws, 0)
    for i in range(first, schedule.steps):
        v = denoiser(
            x.view(B, draws, D),
            timesteps[i].expand(B, draws),
            alpha_bar[i].expand(B, draws),
            x_m,
            m,
            view,
            tokens,
            segments,
        )
        x = ddpm_step(
            v.reshape(B * draws, D),
            x,
            torch.full_like(step, i),
            table,
            prediction="v_prediction",
            variance="learned_range",
            variance_output=reverse_variance(table[i], spread),
            key=key,
            row_ids=row_ids,
        )
    return x.view(B, draws, D)


def reverse_variance(row: Tensor, spread: Tensor) -> Tensor:
    """The variance of x_{t-1} given x_t when x_0 has the variance `spread` around what is known, in
    the units of a learned range (Nichol and Dhariwal 2021, eq. 15).

    That of Ho et al. 2020, eq. 7, is for a known x_0. What x_t leaves open of x_0 adds to it
    (Bao et al. 2022, theorem 1); with few steps most of the spread would be lost otherwise.
    """
    c = Coefficients(*row)
    a, s = c.sqrt_alpha_bar, c.sqrt_beta_bar
    left_open = spread * s.square() / (a.square() * spread + s.square())
    variance = c.log_variance_min.exp() + c.weight_x0.square() * left_open
    return 2 * (variance.log() - c.log_variance_min) / (c.log_variance_max - c.log_variance_min) - 1
