"""What the fused kernels share, in whatever language: what they decline, how they are called, and their
gradients in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.ddpm.arguments import PREDICTIONS, Noise, NoiseLoss, Step
from robustmdiff.ops.ddpm.definition import (
    DynamicThreshold,
    coefficients,
    learned_deviation,
    noise_target,
    predicted_x0,
)
from robustmdiff.ops.ddpm.schema import Operators
from robustmdiff.ops.dispatch import Backend
from robustmdiff.ops.philox import NOISING
from robustmdiff.ops.registration import tensors_of


class Fused(NamedTuple):
    """One backend of the three ops."""

    step: Backend
    noise: Backend
    noise_loss: Backend


def backends(name: str, operators: Operators, takes: Callable[[Tensor], list[str]]) -> Fused:
    """The ops on these operators, differentiable. takes(sample): why the kernels cannot take its dtype or
    device."""

    def step_reasons(a: Step) -> list[str]:
        found = takes(a.sample)
        if isinstance(a.clip, DynamicThreshold):
            found.append("dynamic thresholding needs a quantile of each row, which stays in torch")
        return found + _only_torch(guidance=a.guidances, noise=a.noise, table=a.table)

    def noise_reasons(a: Noise) -> list[str]:
        return takes(a.sample) + _only_torch(noise=a.noise, table=a.table)

    def loss_reasons(a: NoiseLoss) -> list[str]:
        found = takes(a.prediction) + _only_torch(sample=a.sample, table=a.table)
        return found if a.noise is None else [*found, "noise is given, so there is none to draw"]

    normal = operators.normal
    differentiable_step = differentiable(
        "ddpm_step",
        _alone(operators.step),
        partial(_step_gradients, normal),
        tensors=tensors_of(Step)[:-1],
        wrt=(0, 1, 4, 6),
    )
    differentiable_noise = differentiable(
        "ddpm_noise", _alone(operators.noise), _noise_gradients, tensors=tensors_of(Noise)[:-1], wrt=(0,)
    )
    differentiable_loss = differentiable(
        "ddpm_noise_loss",
        _alone(partial(_loss_forward, normal)),
        partial(_loss_gradients, normal),
        tensors=tensors_of(NoiseLoss),
        wrt=(0,),
    )

    def step(a: Step) -> Tensor:
        if a.guidances is not None:
            a = a._replace(guidances=a.guidances.float())
        return _into(a.out, operators.step_out, differentiable_step, a[:-1])

    def noise(a: Noise) -> Tensor:
        return _into(a.out, operators.noise_out, differentiable_noise, a[:-1])

    def noise_loss(a: NoiseLoss) -> Tensor:
        (found,) = differentiable_loss(*a)
        return found

    return Fused(
        Backend(name, step, step_reasons),
        Backend(name, noise, noise_reasons),
        Backend(name, noise_loss, loss_reasons),
    )


def _only_torch(**tensors: Tensor | None) -> list[str]:
    """Reasons: these have a gradient on the torch backend alone."""
    if not torch.is_grad_enabled():
        return []
    needed = [name for name, x in tensors.items() if x is not None and x.requires_grad]
    return [f"{name} needs a gradient, which only torch gives" for name in needed]


def _into(
    out: Tensor | None, write: Callable[..., None], make: Callable[..., tuple[Tensor, ...]], inputs: tuple
) -> Tensor:
    if out is None:
        return make(*inputs)[0]
    write(out, *inputs)
    return out


def _alone(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor]]:
    """Its one output as a tuple, which is what the bridge takes."""
    return lambda *inputs: (function(*inputs),)


def _step_gradients(normal: Callable[..., Tensor], grad: Tensor, *inputs: Any) -> tuple[Tensor | None, ...]:
    """Of sample, model_output, uncond and variance_output, in float32."""
    call = Step._make((*inputs, None))
    dtype, grad, x_t, output = grad.dtype, grad.float(), call.sample.float(), call.model_output.float()
    uncond, variance_output, clip = call.uncond, call.variance_output, cast(float, call.clip)
    c = coefficients(call.table, call.step, x_t)
    a, b = c.sqrt_alpha_bar, c.sqrt_beta_bar
    g: float | Tensor = call.guidance if call.guidances is None else call.guidances.reshape(a.shape)
    through_x0 = c.weight_x0 * grad
    if clip < math.inf:
        guided = output if uncond is None else uncond + g * (output - uncond)
        x0 = predicted_x0(guided, x_t, a, b, PREDICTIONS[call.prediction])
        through_x0 = torch.where(x0.abs() <= clip, through_x0, 0)
    by_sample, by_output = ((1 / a, -b / a), (0.0, 1.0), (a, -b))[call.prediction]
    to_sample = c.weight_xt * grad + by_sample * through_x0
    to_guided = by_output * through_x0
    to_output, to_uncond, to_variance = to_guided, None, None
    if uncond is not None:
        to_output, to_uncond = (g * to_guided).to(dtype), ((1 - g) * to_guided).to(dtype)
    if variance_output is not None:
        noise = call.noise
        z = normal(x_t, call.step, call.key, call.row_ids) if noise is None else noise.float()
        z = torch.where(c.sigma > 0, z, 0)
        low, high = (-1.0, 1.0) if call.exact else (c.log_variance_min, c.log_variance_max)
        deviation = learned_deviation(variance_output.float(), low, high)
        to_variance = (grad * z * deviation * (high - low) / 4).to(dtype)
    return to_sample.to(dtype), to_output.to(dtype), to_uncond, to_variance


def _noise_gradients(grad: Tensor, sample: Tensor, step: Tensor, table: Tensor, *_: Any) -> tuple[Tensor]:
    a = coefficients(table, step, sample.float()).sqrt_alpha_bar
    return ((a * grad.float()).to(sample.dtype),)


def _error(normal: Callable[..., Tensor], a: NoiseLoss) -> Tensor:
    """prediction - target, float32 [B, ...], the noise drawn anew."""
    x0 = a.sample.float()
    z = normal(x0, a.step + NOISING, a.key, a.row_ids)
    return a.prediction.float() - noise_target(x0, a.step, a.table, a.target, z)


def _loss_forward(normal: Callable[..., Tensor], *inputs: Any) -> Tensor:
    error = _error(normal, NoiseLoss(*inputs))
    return error.square().reshape(error.shape[0], error.shape[1:].numel()).mean(1)


def _loss_gradients(normal: Callable[..., Tensor], grad: Tensor, *inputs: Any) -> tuple[Tensor]:
    a = NoiseLoss(*inputs)
    error = _error(normal, a)
    each = 2 * grad / max(a.prediction.shape[1:].numel(), 1)
    return ((error * each.reshape(-1, *[1] * (error.dim() - 1))).to(a.prediction.dtype),)
