"""The DDPM ops in torch: the definition, in float32 where the tensors are narrower."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustmdiff.ops.ddpm import definition
from robustmdiff.ops.ddpm.arguments import PREDICTIONS, Noise, NoiseLoss, Step
from robustmdiff.ops.philox import NOISING, philox_normal


def step(a: Step) -> Tensor:
    x = _wide(a.sample)
    variance_output = None if a.variance_output is None else a.variance_output.to(x.dtype)
    result = definition.ddpm_step(
        a.model_output.to(x.dtype),
        x,
        a.step,
        a.table,
        uncond=None if a.uncond is None else a.uncond.to(x.dtype),
        guidance=a.guidance if a.guidances is None else a.guidances,
        variance_output=None if a.exact else variance_output,
        log_variance=variance_output if a.exact else None,
        clip=None if a.clip == math.inf else a.clip,
        prediction=PREDICTIONS[a.prediction],
        noise=_noise_of(x, a, a.step),
    ).to(a.sample.dtype)
    return result.contiguous() if a.out is None else a.out.copy_(result)


def noise(a: Noise) -> Tensor:
    x = _wide(a.sample)
    result = definition.ddpm_noise(x, a.step, a.table, noise=_noise_of(x, a, a.step + NOISING))
    result = result.to(a.sample.dtype)
    return result.contiguous() if a.out is None else a.out.copy_(result)


def noise_loss(a: NoiseLoss) -> Tensor:
    x, prediction = _wide(a.sample), _wide(a.prediction)
    z = _noise_of(x, a, a.step + NOISING)
    return definition.ddpm_noise_loss(prediction, x, a.step, a.table, target=a.target, noise=z)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _noise_of(x: Tensor, a: Step | Noise | NoiseLoss, counter: Tensor) -> Tensor:
    """The noise that is given, or what the key draws at these counters; float32 or wider."""
    if a.noise is not None:
        return _wide(a.noise)
    assert a.key is not None
    return philox_normal(a.key, counter, a.row_ids, x.shape[1:].numel()).to(x.dtype).reshape(x.shape)
