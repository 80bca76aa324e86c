"""The DDPM ops on Triton: the operators around `robustmdiff.kernels.ddpm`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops import triton_support
from robustmdiff.ops.ddpm.arguments import Noise, Step
from robustmdiff.ops.ddpm.fused import backends
from robustmdiff.ops.ddpm.schema import declare
from robustmdiff.ops.registration import implement


def _packed(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in inputs)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _step_out(out: Tensor, *inputs: Any) -> None:
    from robustmdiff.kernels import ddpm

    ddpm.step(Step._make((*_packed(inputs), out)))


def _step(sample: Tensor, *inputs: Any) -> Tensor:
    out = _like(sample)
    _step_out(out, sample, *inputs)
    return out


def _noise_out(out: Tensor, *inputs: Any) -> None:
    from robustmdiff.kernels import ddpm

    ddpm.noise(Noise._make((*_packed(inputs), out)))


def _noise(sample: Tensor, *inputs: Any) -> Tensor:
    out = _like(sample)
    _noise_out(out, sample, *inputs)
    return out


def _normal(like: Tensor, step: Tensor, key: Tensor, row_ids: Tensor | None) -> Tensor:
    from robustmdiff.kernels import ddpm

    out = _like(like)
    ddpm.normal(out, *_packed((step, key, row_ids)))
    return out


operators = declare("_triton")
implement("ddpm_step_triton", _step)
implement("ddpm_step_out_triton", _step_out)
implement("ddpm_noise_triton", _noise)
implement("ddpm_noise_out_triton", _noise_out)
implement("philox_normal_triton", _normal)
step, noise, noise_loss = backends("triton", operators, triton_support.reasons)
