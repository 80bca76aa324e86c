"""The coefficients of every sampling step, computed once on the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """The columns of the table; the same order in csrc/include/rmd/ddpm.h."""

    sqrt_alpha_bar: Tensor
    sqrt_beta_bar: Tensor  # sqrt(1 - alpha bar)
    weight_x0: Tensor  # of the posterior mean (Ho et al. 2020, eq. 7)
    weight_xt: Tensor
    sigma: Tensor  # 0: the step takes no noise
    log_variance_min: Tensor  # ends of the learned range (Nichol & Dhariwal 2021, eq. 15)
    log_variance_max: Tensor
    successor: Tensor  # the row that comes next; the number of rows after the last


def ddpm_table(scheduler: Any) -> Tensor:
    """float32 [S, 8] on the CPU: the coefficients of a `DDPMScheduler`'s timesteps, in sampling order.

    `scheduler` needs `alphas_cumprod`, `timesteps` and `config.variance_type` (fixed_small,
    fixed_small_log, fixed_large or learned_range); diffusers itself is not imported. Row 0 is the
    first, noisiest step. A scheduler fresh from its constructor gives all its training steps, so
    there the row of timestep t is S - 1 - t.

    Everything is computed in float32 in the order of diffusers' `step`, because another order gives
    other last bits, which 1 / sqrt(alpha bar) of the first steps magnifies.
    Raises ValueError for a variance type whose step has no such coefficients.
    """
    variance_type = scheduler.config.variance_type
    known = ("fixed_small", "fixed_small_log", "fixed_large", "learned_range")
    if variance_type not in known:
        raise ValueError(f"variance_type is {variance_type!r}, expected one of {', '.join(map(repr, known))}")
    timesteps = scheduler.timesteps.cpu().tolist()
    alpha_bars = scheduler.alphas_cumprod.cpu().float()
    # Zero-dimensional tensors, as diffusers has them: the vector forms of log and exp round differently.
    one = torch.tensor(1.0)
    rows = []
    for i, t in enumerate(timesteps):
        # diffusers' "trailing" timesteps end with an extra -1 where its division rounds badly (61 of 1000).
        last = i + 1 == len(timesteps) or timesteps[i + 1] < 0
        following = one if last else alpha_bars[timesteps[i + 1]]
        rows.append(_row(alpha_bars[t], following, t, i, variance_type))
    return torch.stack(rows) if rows else torch.empty(0, len(Coefficients._fields))


def _row(alpha_bar: Tensor, next_alpha_bar: Tensor, t: int, index: int, variance_type: str) -> Tensor:
    beta_bar, next_beta_bar = 1 - alpha_bar, 1 - next_alpha_bar
    alpha = alpha_bar / next_alpha_bar
    beta = 1 - alpha
    variance = torch.clamp((1 - next_alpha_bar) / (1 - alpha_bar) * beta, min=1e-20)
    if variance_type == "fixed_large":
        sigma = beta**0.5
    elif variance_type == "fixed_small_log":
        sigma = torch.exp(0.5 * torch.log(variance))
    else:
        sigma = variance**0.5
    return torch.stack(
        Coefficients(
            sqrt_alpha_bar=alpha_bar**0.5,
            sqrt_beta_bar=beta_bar**0.5,
            weight_x0=(next_alpha_bar**0.5 * beta) / beta_bar,
            weight_xt=alpha**0.5 * next_beta_bar / beta_bar,
            sigma=sigma if t > 0 else torch.tensor(0.0),
            log_variance_min=torch.log(variance),
            log_variance_max=torch.log(beta),
            successor=torch.tensor(float(index + 1)),
        )
    )
