"""What the DDPM ops mean: plain torch in the dtype of its arguments, float64 included.

The equations are those of Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (2020),
and of Nichol and Dhariwal, "Improved DDPM" (2021) for the learned variance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustmdiff.ops.ddpm.table import Coefficients


class DynamicThreshold(NamedTuple):
    """Clip x_0 of each row to its own quantile of |x_0|, and divide by it (Saharia et al. 2022, Imagen)."""

    ratio: float = 0.995
    limit: float = 1.0  # the quantile counts up to here


def coefficients(table: Tensor, step: Tensor, sample: Tensor) -> Coefficients:
    """The table's rows for these steps: one [B, 1, ...] per column, in the dtype of the sample."""
    ones = [1] * (sample.dim() - 1)
    rows = table.index_select(0, step.clamp(0, table.shape[0] - 1)).to(sample.dtype)
    return Coefficients(*(column.reshape(-1, *ones) for column in rows.unbind(1)))


def clipped(x0: Tensor, clip: float | DynamicThreshold | None) -> Tensor:
    if clip is None or x0.numel() == 0:
        return x0
    if isinstance(clip, DynamicThreshold):
        magnitude = x0.abs().reshape(x0.shape[0], -1)
        s = torch.quantile(magnitude, clip.ratio, dim=1).clamp(1, clip.limit)
        s = s.reshape(-1, *[1] * (x0.dim() - 1))
        return torch.clamp(x0, -s, s) / s
    return x0.clamp(-clip, clip)


def predicted_x0(output: Tensor, sample: Tensor, a: Tensor, b: Tensor, prediction: str) -> Tensor:
    """x_0 from what the model predicts; a = sqrt(alpha bar), b = sqrt(1 - alpha bar)."""
    if prediction == "epsilon":
        return (sample - b * output) / a
    if prediction == "sample":
        return output
    return a * sample - b * output


def posterior_mean(x0: Tensor, sample: Tensor, c: Coefficients) -> Tensor:
    """mu_theta(x_t, t), the mean of q(x_{t-1} | x_t, x_0) at the estimate of x_0 (Ho et al. 2020, eq. 7)."""
    return c.weight_x0 * x0 + c.weight_xt * sample


def learned_deviation(variance_output: Tensor, log_min: Tensor | float, log_max: Tensor | float) -> Tensor:
    share = (variance_output + 1) / 2
    return torch.exp(0.5 * (share * log_max + (1 - share) * log_min))


def ddpm_step(
    model_output: Tensor,
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    *,
    uncond: Tensor | None = None,
    guidance: float | Tensor = 1.0,
    variance_output: Tensor | None = None,
    log_variance: Tensor | None = None,
    clip: float | DynamicThreshold | None = None,
    prediction: str = "epsilon",
    noise: Tensor,
) -> Tensor:
    c = coefficients(table, step, sample)
    if uncond is not None:
        if isinstance(guidance, Tensor):
            guidance = guidance.to(sample.dtype).reshape(-1, *[1] * (sample.dim() - 1))
        model_output = uncond + guidance * (model_output - uncond)
    a, b = c.sqrt_alpha_bar, c.sqrt_beta_bar
    x0 = clipped(predicted_x0(model_output, sample, a, b, prediction), clip)
    mean = posterior_mean(x0, sample, c)
    sigma = c.sigma
    deviation = sigma
    if variance_output is not None:
        deviation = learned_deviation(variance_output, c.log_variance_min, c.log_variance_max)
    elif log_variance is not None:
        deviation = torch.exp(0.5 * log_variance)
    return mean + deviation * torch.where(sigma > 0, noise, 0)  # the last step reads no noise


def ddpm_noise(sample: Tensor, step: Tensor, table: Tensor, *, noise: Tensor) -> Tensor:
    """x_t = sqrt(alpha bar) x_0 + sqrt(1 - alpha bar) noise (Ho et al. 2020, eq. 4)."""
    c = coefficients(table, step, sample)
    return c.sqrt_alpha_bar * sample + c.sqrt_beta_bar * noise


def noise_target(sample: Tensor, step: Tensor, table: Tensor, target: str, noise: Tensor) -> Tensor:
    """What a model of this prediction type should say at x_t (Salimans & Ho 2022 for v)."""
    if target == "epsilon":
        return noise
    if target == "sample":
        return sample
    c = coefficients(table, step, sample)
    return c.sqrt_alpha_bar * noise - c.sqrt_beta_bar * sample


def ddpm_noise_loss(
    prediction: Tensor, sample: Tensor, step: Tensor, table: Tensor, *, target: str = "epsilon", noise: Tensor
) -> Tensor:
    """[B]: the mean over each row of (prediction - target)^2."""
    error = prediction - noise_target(sample, step, table, target, noise)
    return error.square().reshape(error.shape[0], error.shape[1:].numel()).mean(1)
