"""The public step."""

from __future__ import annotations

from torch import Tensor

from robustmdiff.ops.ddpm import native, torch_backend, triton_backend
from robustmdiff.ops.ddpm.arguments import step_arguments
from robustmdiff.ops.ddpm.definition import DynamicThreshold
from robustmdiff.ops.dispatch import Backend, Op


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
    return STEP(
        step_arguments(
            model_output, sample, step, table,
            uncond=uncond, guidance=guidance, variance_output=variance_output, log_variance=log_variance,
            clip=clip, prediction=prediction, variance=variance, key=key, row_ids=row_ids, noise=noise,
            out=out,
        )
    )  # fmt: skip


STEP = Op(
    "ddpm_step", step_arguments, (native.step, triton_backend.step, Backend("torch", torch_backend.step))
)
