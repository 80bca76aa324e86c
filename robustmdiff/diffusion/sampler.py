"""Draws from p(x_0 | what was observed), all of a patient's draws side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.diffusion.denoiser import LatentDenoiser
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.ops import ddpm_noise, ddpm_step, philox_key


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
    """Ancestral sampling (Ho et al. 2020, algorithm 2) over the schedule's steps.

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
    for i in range(first, schedule.steps):
        shape = (B, draws)
        v = denoiser(
            x.view(B, draws, D),
            timesteps[i].expand(shape),
            alpha_bar[i].expand(shape),
            x_m,
            m,
            view,
            tokens,
            segments,
        )
        step = torch.full_like(step, i)
        x = ddpm_step(
            v.reshape(B * draws, D), x, step, table, prediction="v_prediction", key=key, row_ids=row_ids
        )
    return x.view(B, draws, D)
