"""The coefficients of every sampling step, computed once on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling


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
    timesteps, alpha_bars = scheduler.timesteps.cpu().long(), scheduler.alphas_cumprod.cpu()
    following = torch.cat([timesteps[1:], timesteps.new_tensor([-1])])
    return step_rows(alpha_bars, timesteps, following[: len(timesteps)], variance_type)


def step_rows(alpha_bars: Tensor, t: Tensor, following: Tensor, variance_type: str) -> Tensor:
    """float32 [S, 8]: the coefficients of the steps from t to the timestep following, both int64 [S].

    A negative one that follows is x_0. (diffusers' "trailing" timesteps end with an extra -1 where its
    division rounds badly, as in 61 steps of 1000; as t, a negative one counts from the end, as in torch.)
    Computed in the dtype of alpha_bars [T], in float32 where that is narrower.
    """
    if alpha_bars.dtype != torch.float64:
        alpha_bars = alpha_bars.float()
    alpha_bar = alpha_bars[t]
    next_alpha_bar = torch.where(following < 0, 1, alpha_bars[following.clamp(min=0)])
    beta_bar, next_beta_bar = 1 - alpha_bar, 1 - next_alpha_bar
    alpha = alpha_bar / next_alpha_bar
    beta = 1 - alpha
    variance = torch.clamp(next_beta_bar / beta_bar * beta, min=1e-20)
    if variance_type == "fixed_large":
        sigma = beta**0.5
    elif variance_type == "fixed_small_log":
        sigma = _one_by_one(torch.exp, 0.5 * _one_by_one(torch.log, variance))
    else:
        sigma = variance**0.5
    columns = Coefficients(
        sqrt_alpha_bar=alpha_bar**0.5,
        sqrt_beta_bar=beta_bar**0.5,
        weight_x0=(next_alpha_bar**0.5 * beta) / beta_bar,
        weight_xt=alpha**0.5 * next_beta_bar / beta_bar,
        sigma=torch.where(t > 0, sigma, 0),
        log_variance_min=_one_by_one(torch.log, variance),
        log_variance_max=_one_by_one(torch.log, beta),
        successor=torch.arange(1, len(t) + 1, device=t.device),
    )
    return torch.stack([column.float() for column in columns], 1)


def _one_by_one(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) on zero-dimensional tensors, as diffusers has them: the vector forms of log and exp may
    round differently. A compiled graph takes the vector form."""
    if is_compiling() or len(x) == 0:
        return function(x)
    return torch.stack([function(value) for value in x.unbind()])
