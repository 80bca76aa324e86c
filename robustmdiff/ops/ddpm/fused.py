"""What the fused kernels share, in whatever language: what they decline, how they are called, and their
gradients in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.ddpm import schema
from robustmdiff.ops.ddpm.definition import (
    DynamicThreshold,
    coefficients,
    learned_deviation,
    noise_target,
    predicted_x0,
)
from robustmdiff.ops.philox import NOISING


class Fused(NamedTuple):
    """The three ops of one backend, as dispatch runs them."""

    step: Callable[..., Tensor]
    noise: Callable[..., Tensor]
    noise_loss: Callable[..., Tensor]


def reasons(
    without_gradient: dict[str, Tensor | None], clip: float | DynamicThreshold | None = None
) -> list[str]:
    """Why no fused kernel can take these arguments."""
    found = []
    if isinstance(clip, DynamicThreshold):
        found.append("dynamic thresholding needs a quantile of each row, which stays in torch")
    if torch.is_grad_enabled():
        for name, x in without_gradient.items():
            if x is not None and x.requires_grad:
                found.append(f"{name} needs a gradient, which only torch gives")
    return found


def fused(operators: schema.Operators) -> Fused:
    """The ops on these operators, differentiable."""
    normal = operators.normal
    differentiable_step = differentiable(
        "ddpm_step", _alone(operators.step), partial(_step_gradients, normal), wrt=(0, 1, 4, 6)
    )
    differentiable_noise = differentiable("ddpm_noise", _alone(operators.noise), _noise_gradients, wrt=(0,))
    differentiable_loss = differentiable(
        "ddpm_noise_loss", _alone(partial(_loss_forward, normal)), partial(_loss_gradients, normal), wrt=(0,)
    )

    def step(*args: Any, out: Tensor | None = None) -> Tensor:
        tensors, (guidance, clip, *settings) = list(args[:-4]), args[-4:]
        tensors[5] = None if tensors[5] is None else tensors[5].float()
        inputs = (*_packed(*tensors), guidance, math.inf if clip is None else clip, *settings)
        if out is None:
            return differentiable_step(*inputs)[0]
        operators.step_out(out, *inputs)
        return out

    def noise(*args: Any, out: Tensor | None = None) -> Tensor:
        if out is None:
            return differentiable_noise(*_packed(*args))[0]
        operators.noise_out(out, *_packed(*args))
        return out

    def noise_loss(prediction: Tensor, *args: Any) -> Tensor:
        *tensors, _, target = args  # no noise is given here
        return differentiable_loss(prediction, *_packed(*tensors), target)[0]

    return Fused(step, noise, noise_loss)


def _alone(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor]]:
    """Its one output as a tuple, which is what the bridge takes."""
    return lambda *inputs: (function(*inputs),)


def _packed(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.contiguous() for x in tensors)


def _step_gradients(
    normal: Callable[..., Tensor],
    grad: Tensor,
    sample: Tensor,
    output: Tensor,
    step: Tensor,
    table: Tensor,
    uncond: Tensor | None,
    guidances: Tensor | None,
    variance_output: Tensor | None,
    key: Tensor | None,
    row_ids: Tensor | None,
    noise: Tensor | None,
    guidance: float,
    clip: float,
    prediction: int,
    exact: bool,
) -> tuple[Tensor | None, ...]:
    """Of sample, model_output, uncond and variance_output, in float32."""
    dtype, grad, x_t = grad.dtype, grad.float(), sample.float()
    c = coefficients(table, step, x_t)
    a, b = c.sqrt_alpha_bar, c.sqrt_beta_bar
    g: float | Tensor = guidance if guidances is None else guidances.reshape(a.shape)
    through_x0 = c.weight_x0 * grad
    if clip < math.inf:
        guided = output.float() if uncond is None else uncond + g * (output.float() - uncond)
        x0 = predicted_x0(guided, x_t, a, b, schema.PREDICTIONS[prediction])
        through_x0 = torch.where(x0.abs() <= clip, through_x0, 0)
    by_sample, by_output = ((1 / a, -b / a), (0.0, 1.0), (a, -b))[prediction]
    to_sample = c.weight_xt * grad + by_sample * through_x0
    to_guided = by_output * through_x0
    to_output, to_uncond, to_variance = to_guided, None, None
    if uncond is not None:
        to_output, to_uncond = (g * to_guided).to(dtype), ((1 - g) * to_guided).to(dtype)
    if variance_output is not None:
        z = normal(x_t, step, key, row_ids) if noise is None else noise.float()
        z = torch.where(c.sigma > 0, z, 0)
        low, high = (-1.0, 1.0) if exact else (c.log_variance_min, c.log_variance_max)
        deviation = learned_deviation(variance_output.float(), low, high)
        to_variance = (grad * z * deviation * (high - low) / 4).to(dtype)
    return to_sample.to(dtype), to_output.to(dtype), to_uncond, to_variance


def _noise_gradients(grad: Tensor, sample: Tensor, step: Tensor, table: Tensor, *_: Any) -> tuple[Tensor]:
    a = coefficients(table, step, sample.float()).sqrt_alpha_bar
    return ((a * grad.float()).to(sample.dtype),)


def _error(
    normal: Callable[..., Tensor],
    prediction: Tensor,
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    key: Tensor,
    row_ids: Tensor | None,
    target: str,
) -> Tensor:
    """prediction - target, float32 [B, ...], the noise drawn anew."""
    x0 = sample.float()
    z = normal(x0, step + NOISING, key, row_ids)
    return prediction.float() - noise_target(x0, step, table, target, z)


def _loss_forward(normal: Callable[..., Tensor], prediction: Tensor, *inputs: Any) -> Tensor:
    error = _error(normal, prediction, *inputs)
    return error.square().reshape(error.shape[0], error.shape[1:].numel()).mean(1)


def _loss_gradients(
    normal: Callable[..., Tensor], grad: Tensor, prediction: Tensor, *inputs: Any
) -> tuple[Tensor]:
    error = _error(normal, prediction, *inputs)
    each = 2 * grad / max(prediction.shape[1:].numel(), 1)
    return ((error * each.reshape(-1, *[1] * (error.dim() - 1))).to(prediction.dtype),)
