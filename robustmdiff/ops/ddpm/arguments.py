"""The arguments of the DDPM ops, checked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from robustmdiff.ops.ddpm.check import (
    check_clip,
    check_guidance,
    check_like_sample,
    check_out,
    check_schedule,
    one_of,
)
from robustmdiff.ops.ddpm.definition import DynamicThreshold

PREDICTIONS = ("epsilon", "sample", "v_prediction")


class Step(NamedTuple):
    """What the backends of `ddpm_step` take, in the order of the schema; floating tensors as the sample's."""

    sample: Tensor  # [B, ...]
    model_output: Tensor
    step: Tensor  # int64 [B]
    table: Tensor  # float32 [S, 8]
    uncond: Tensor | None
    guidances: Tensor | None  # [B]: wins over guidance
    variance_output: Tensor | None
    key: Tensor | None
    row_ids: Tensor | None
    noise: Tensor | None
    guidance: float
    clip: float | DynamicThreshold  # inf: none
    prediction: int  # an index into PREDICTIONS
    exact: bool  # variance_output is the log variance itself
    out: Tensor | None


class Noise(NamedTuple):
    """What the backends of `ddpm_noise` take, in the order of the schema."""

    sample: Tensor
    step: Tensor
    table: Tensor
    key: Tensor | None
    row_ids: Tensor | None
    noise: Tensor | None
    out: Tensor | None


class NoiseLoss(NamedTuple):
    """What the backends of `ddpm_noise_loss` take."""

    prediction: Tensor
    sample: Tensor
    step: Tensor
    table: Tensor
    key: Tensor | None
    row_ids: Tensor | None
    noise: Tensor | None
    target: str


def step_arguments(
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
    variance: str = "fixed",
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
    out: Tensor | None = None,
) -> Step:
    """Those of `ddpm_step`: cast to the dtype of the sample, TypeError or ValueError where wrong."""
    op = "ddpm_step"
    others = {
        "model_output": model_output,
        "uncond": uncond,
        "variance_output": variance_output,
        "log_variance": log_variance,
        "noise": noise,
    }
    check_like_sample(op, sample, others)
    check_schedule(op, sample, step, table, key, row_ids, noise)
    one_of(op, "prediction", prediction, PREDICTIONS)
    one_of(op, "variance", variance, ("fixed", "learned_range"))
    if (variance_output is None) != (variance == "fixed"):
        given = "not given" if variance_output is None else "given"
        raise ValueError(f"{op}: variance_output is {given} with variance={variance!r}")
    if log_variance is not None and variance_output is not None:
        raise ValueError(f"{op}: variance_output and log_variance are both given, expected one of them")
    check_clip(op, clip)
    check_guidance(op, guidance, uncond, sample)
    if out is not None:
        check_out(op, out, sample, (sample, *others.values(), guidance, table))
    exact = log_variance is not None
    if exact:
        variance_output = log_variance
    dtype = sample.dtype
    if any(x is not None and x.dtype != dtype for x in others.values()):
        model_output = model_output.to(sample.dtype)
        uncond, variance_output, noise = (
            x if x is None else x.to(sample.dtype) for x in (uncond, variance_output, noise)
        )
    guidances, scale = (guidance, 1.0) if isinstance(guidance, Tensor) else (None, float(guidance))
    drawn = key, row_ids, noise
    settings: Any = scale, math.inf if clip is None else clip, PREDICTIONS.index(prediction), exact, out
    return Step(sample, model_output, step, table, uncond, guidances, variance_output, *drawn, *settings)


def noise_arguments(
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
    out: Tensor | None = None,
) -> Noise:
    """Those of `ddpm_noise`: the noise cast to the sample's dtype, TypeError or ValueError where wrong."""
    check_like_sample("ddpm_noise", sample, {"noise": noise})
    check_schedule("ddpm_noise", sample, step, table, key, row_ids, noise)
    if out is not None:
        check_out("ddpm_noise", out, sample, (sample, noise, table))
    noise = None if noise is None else noise.to(sample.dtype)
    return Noise(sample, step, table, key, row_ids, noise, out)


def loss_arguments(
    prediction: Tensor,
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    *,
    target: str = "epsilon",
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
) -> NoiseLoss:
    """Those of `ddpm_noise_loss`: TypeError or ValueError where wrong."""
    check_like_sample("ddpm_noise_loss", sample, {"prediction": prediction, "noise": noise})
    check_schedule("ddpm_noise_loss", sample, step, table, key, row_ids, noise)
    one_of("ddpm_noise_loss", "target", target, PREDICTIONS)
    return NoiseLoss(prediction, sample, step, table, key, row_ids, noise, target)
