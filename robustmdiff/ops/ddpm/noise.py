"""Noising for training, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.ddpm import definition, native, triton_backend
from robustmdiff.ops.ddpm.check import check_like_sample, check_out, check_schedule, one_of
from robustmdiff.ops.ddpm.schema import PREDICTIONS
from robustmdiff.ops.dispatch import Backend, Op
from robustmdiff.ops.philox import NOISING, philox_normal


def ddpm_noise(
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """x_t = sqrt(alpha bar) x_0 + sqrt(1 - alpha bar) noise (Ho et al. 2020, eq. 4).

    sample [B, ...] is x_0; step, table, key, row_ids, noise and out as in `ddpm_step`. The noise of a
    key is drawn at counter step + 2^31, so it is never the one that `ddpm_step` draws at that step.
    Gradient: sample; on the torch backend also noise and table.
    """
    args = _prepare_noise(sample, step, table, key=key, row_ids=row_ids, noise=noise, out=out)
    return NOISE.select(*args).run(*args, out=out)


def ddpm_noise_loss(
    prediction: Tensor,
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    *,
    target: str = "epsilon",
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """float32 [B] (float64 for float64): each row's mean of (prediction - target)^2.

    prediction [B, ...] is the model's answer at ddpm_noise(sample, ...) with the same step, key and
    row_ids; target "epsilon", "sample" or "v_prediction" (Salimans & Ho 2022) is what it should be.
    The native backend draws the noise anew, forward and backward, instead of keeping it.
    Gradient: prediction; on the torch backend also sample, noise and table.
    """
    args = _prepare_loss(
        prediction, sample, step, table, target=target, key=key, row_ids=row_ids, noise=noise
    )
    return LOSS.select(*args).run(*args)


def _prepare_noise(
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Any, ...]:
    check_like_sample("ddpm_noise", sample, {"noise": noise})
    check_schedule("ddpm_noise", sample, step, table, key, row_ids, noise)
    if out is not None:
        check_out("ddpm_noise", out, sample, (sample, noise, table))
    return sample, step, table, key, row_ids, None if noise is None else noise.to(sample.dtype)


def _prepare_loss(
    prediction: Tensor,
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    *,
    target: str = "epsilon",
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
    noise: Tensor | None = None,
) -> tuple[Any, ...]:
    check_like_sample("ddpm_noise_loss", sample, {"prediction": prediction, "noise": noise})
    check_schedule("ddpm_noise_loss", sample, step, table, key, row_ids, noise)
    one_of("ddpm_noise_loss", "target", target, PREDICTIONS)
    return prediction, sample, step, table, key, row_ids, noise, target


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _drawn(x: Tensor, step: Tensor, key: Tensor, row_ids: Tensor | None) -> Tensor:
    """The noise of x_t, in the dtype of x."""
    z = philox_normal(key, step + NOISING, row_ids, x.shape[1:].numel())
    return z.to(x.dtype).reshape(x.shape)


def _noise_torch(
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    key: Tensor | None,
    row_ids: Tensor | None,
    noise: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    x = _wide(sample)
    z = _drawn(x, step, key, row_ids) if noise is None else _wide(noise)  # type: ignore[arg-type]
    result = definition.ddpm_noise(x, step, table, noise=z).to(sample.dtype)
    return result.contiguous() if out is None else out.copy_(result)


def _loss_torch(
    prediction: Tensor,
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    key: Tensor | None,
    row_ids: Tensor | None,
    noise: Tensor | None,
    target: str,
) -> Tensor:
    x = _wide(sample)
    z = _drawn(x, step, key, row_ids) if noise is None else _wide(noise)  # type: ignore[arg-type]
    return definition.ddpm_noise_loss(_wide(prediction), x, step, table, target=target, noise=z)


def _noise_reasons(backend: Any) -> Callable[..., list[str]]:
    """Of the native or the Triton backend."""

    def reasons(
        sample: Tensor,
        step: Tensor,
        table: Tensor,
        key: Tensor | None,
        row_ids: Tensor | None,
        noise: Tensor | None,
        **_: Any,
    ) -> list[str]:
        return backend.reasons(sample, {"noise": noise, "table": table})

    return reasons


def _loss_reasons(backend: Any) -> Callable[..., list[str]]:
    def reasons(
        prediction: Tensor,
        sample: Tensor,
        step: Tensor,
        table: Tensor,
        key: Tensor | None,
        row_ids: Tensor | None,
        noise: Tensor | None,
        target: str,
    ) -> list[str]:
        found = backend.reasons(prediction, {"sample": sample, "table": table})
        return found if noise is None else [*found, "noise is given, so there is none to draw"]

    return reasons


def _no_reason(*_: Any, **__: Any) -> list[str]:
    return []


NOISE = Op(
    "ddpm_noise",
    (
        Backend("native", native.noise, _noise_reasons(native)),
        Backend("triton", triton_backend.noise, _noise_reasons(triton_backend)),
        Backend("torch", _noise_torch, _no_reason),
    ),
    _prepare_noise,
)
LOSS = Op(
    "ddpm_noise_loss",
    (
        Backend("native", native.noise_loss, _loss_reasons(native)),
        Backend("triton", triton_backend.noise_loss, _loss_reasons(triton_backend)),
        Backend("torch", _loss_torch, _no_reason),
    ),
    _prepare_loss,
)
