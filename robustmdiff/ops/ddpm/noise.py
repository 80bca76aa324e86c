"""Noising for training, and its loss."""

from __future__ import annotations

from torch import Tensor

from robustmdiff.ops.ddpm import native, torch_backend, triton_backend
from robustmdiff.ops.ddpm.arguments import loss_arguments, noise_arguments
from robustmdiff.ops.dispatch import Backend, Op


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
    return NOISE(noise_arguments(sample, step, table, key=key, row_ids=row_ids, noise=noise, out=out))


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
    return LOSS(
        loss_arguments(prediction, sample, step, table, target=target, key=key, row_ids=row_ids, noise=noise)
    )


NOISE = Op(
    "ddpm_noise", noise_arguments, (native.noise, triton_backend.noise, Backend("torch", torch_backend.noise))
)
LOSS = Op(
    "ddpm_noise_loss",
    loss_arguments,
    (native.noise_loss, triton_backend.noise_loss, Backend("torch", torch_backend.noise_loss)),
)
