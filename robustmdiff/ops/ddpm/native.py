"""The C++ and CUDA kernels behind the schema, and what they take."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.ddpm import fused
from robustmdiff.ops.ddpm.definition import DynamicThreshold
from robustmdiff.ops.ddpm.schema import declare
from robustmdiff.ops.registration import define, without_its_frame

operators = declare("")
_MISSING = _native.missing(operators.step)


def reasons(
    sample: Tensor, without_gradient: dict[str, Tensor | None], clip: float | DynamicThreshold | None = None
) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    device = sample.device.type
    if device not in ("cpu", "cuda"):
        found.append(f"no kernel for {device}")
    missing = _native.missing(operators.step, "CUDA") if device == "cuda" else _MISSING
    if missing is not None:
        found.append(missing)
    if sample.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    return found + fused.reasons(without_gradient, clip)


step, noise, noise_loss, ready_step, ready_noise = fused.fused(operators)

# A step as samplers call it, with little to pass, as each argument costs a call time: to a new tensor,
# and to a given one.
INFER = (
    "Tensor sample, Tensor model_output, Tensor step, Tensor table, Tensor key, Tensor? uncond=None, "
    "float guidance=1.0, float? clip=None, int prediction=0, Tensor? variance_output=None, "
    "Tensor? row_ids=None"
)
infer_op = define("ddpm_step_infer", f"({INFER}) -> Tensor", lambda x, *_: x.new_empty(x.shape), lambda *_: 0)
infer_to_op = define("ddpm_step_infer_to", f"(Tensor(a!) out, {INFER}) -> ()", lambda *_: None, lambda *_: 0)
infer, infer_to = without_its_frame(infer_op), without_its_frame(infer_to_op)
