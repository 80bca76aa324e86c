"""The public step: arguments checked, backend chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.ddpm import definition, native, triton_backend
from robustmdiff.ops.ddpm.check import (
    check_clip,
    check_guidance,
    check_like_sample,
    check_out,
    check_schedule,
    one_of,
)
from robustmdiff.ops.ddpm.definition import DynamicThreshold
from robustmdiff.ops.ddpm.schema import PREDICTIONS
from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.philox import philox_normal

INDEX = {prediction: index for index, prediction in enumerate(PREDICTIONS)}


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
    variance: str = "fixed",
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """One ancestral step x_t -> x_{t-1} (Ho et al. 2020, eq. 7), with guidance, clipping and noise.

    model_output     [B, ...], what the model says at x_t.
    sample           [B, ...], x_t: float32, bfloat16, float16 or float64. The result has its shape and
                     dtype and is contiguous; the other floating tensors are cast to its dtype.
    step             int64 [B], each patient's row of the table.
    table            float32 [S, 8] from `ddpm_table`.
    uncond           [B, ...], the model without its condition; guided by
                     uncond + guidance (model_output - uncond), guidance a number or [B].
    variance_output  [B, ...] with variance="learned_range": -1 to 1 between the two log variances.
    log_variance     [B, ...] instead: the variance of the step as it is, where the sampler knows it.
    clip             x_0 is kept within +-clip, or by a `DynamicThreshold` (torch backend only).
    prediction       "epsilon", "sample" or "v_prediction".
    key, noise       exactly one: int64 [2] (seed, offset) to draw from, or the noise itself.
    row_ids          int64 [B] below 2^32, each patient's place in the stream of the key; default 0 to B - 1.
    out              contiguous, to write to (x_t itself will do); only where no gradient is recorded.

    A row whose sigma is 0 (the last step) neither draws nor reads noise. Arithmetic is float32 (float64
    for float64). Gradients: model_output, sample, uncond, variance_output, log_variance; on the
    torch backend also guidance, noise and table. Definition: robustmdiff.ops.ddpm.definition.
    Errors: TypeError for dtypes, ValueError for the rest; values are checked on the CPU in eager mode.
    """
    args = _prepare(
        model_output, sample, step, table,
        uncond=uncond, guidance=guidance, variance_output=variance_output, log_variance=log_variance,
        clip=clip, prediction=prediction, variance=variance, key=key, row_ids=row_ids, noise=noise, out=out,
    )  # fmt: skip
    return OP.select(*args).run(*args, out=out)


def _prepare(
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
) -> tuple[Any, ...]:
    """The arguments of the backends, checked, in the order of the schema."""
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
    dtype = sample.dtype
    if model_output.dtype != dtype:
        model_output = model_output.to(dtype)
    variance_output, exact = (variance_output, False) if log_variance is None else (log_variance, True)
    uncond, variance_output, noise = (
        x if x is None or x.dtype == dtype else x.to(dtype) for x in (uncond, variance_output, noise)
    )
    guidances, scale = (guidance, 1.0) if isinstance(guidance, Tensor) else (None, float(guidance))
    return (
        sample, model_output, step, table, uncond, guidances, variance_output, key, row_ids, noise,
        scale, clip, INDEX[prediction], exact,
    )  # fmt: skip


def _run_torch(
    sample: Tensor,
    model_output: Tensor,
    step: Tensor,
    table: Tensor,
    uncond: Tensor | None,
    guidances: Tensor | None,
    variance_output: Tensor | None,
    key: Tensor | None,
    row_ids: Tensor | None,
    noise: Tensor | None,
    guidance: float,
    clip: float | DynamicThreshold | None,
    prediction: int,
    exact: bool,
    out: Tensor | None = None,
) -> Tensor:
    """The definition, in float32 where the tensors are narrower."""
    narrow = sample.dtype in (torch.bfloat16, torch.float16)
    dtype = torch.float32 if narrow else sample.dtype
    if noise is None:
        assert key is not None
        noise = philox_normal(key, step, row_ids, sample.shape[1:].numel()).reshape(sample.shape)
    if variance_output is not None:
        variance_output = variance_output.to(dtype)
    result = definition.ddpm_step(
        model_output.to(dtype),
        sample.to(dtype),
        step,
        table,
        uncond=None if uncond is None else uncond.to(dtype),
        guidance=guidance if guidances is None else guidances,
        variance_output=None if exact else variance_output,
        log_variance=variance_output if exact else None,
        clip=clip,
        prediction=PREDICTIONS[prediction],
        noise=noise.to(dtype),
    ).to(sample.dtype)
    return result.contiguous() if out is None else out.copy_(result)


def _reasons(backend: Any) -> Callable[..., list[str]]:
    """Of the native or the Triton backend."""

    def reasons(
        sample: Tensor,
        model_output: Tensor,
        step: Tensor,
        table: Tensor,
        uncond: Tensor | None,
        guidances: Tensor | None,
        variance_output: Tensor | None,
        key: Tensor | None,
        row_ids: Tensor | None,
        noise: Tensor | None,
        guidance: float,
        clip: float | DynamicThreshold | None,
        prediction: int,
        exact: bool,
    ) -> list[str]:
        return backend.reasons(sample, {"guidance": guidances, "noise": noise, "table": table}, clip)

    return reasons


OP = Op(
    "ddpm_step",
    (
        Backend("native", native.step, _reasons(native)),
        Backend("triton", triton_backend.step, _reasons(triton_backend)),
        Backend("torch", _run_torch, lambda *args: []),
    ),
    _prepare,
)
