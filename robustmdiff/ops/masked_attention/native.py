"""The C++ kernels behind the schema: what they take, and their gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.masked_attention.schema import TENSORS, WRT, biased_reasons, declare, forward_flops
from robustmdiff.ops.registration import define, differentiable, without_its_frame

forward_op, backward_op = declare("")
# Without the log-sum-exp, which only a backward pass reads, and with little to pass, as each argument
# costs a call time: to a new tensor, and to a given one.
INFER = (
    "Tensor q, Tensor k, Tensor v, Tensor q_segments, Tensor k_segments, float? scale=None, "
    "Tensor? affinity=None, bool exclude_own=False"
)
infer_op = define(
    "masked_attention_infer", f"({INFER}) -> Tensor", lambda q, *_: q.new_empty(q.shape), forward_flops
)
infer_to_op = define(
    "masked_attention_infer_to",
    f"(Tensor(a!) out, {INFER}) -> ()",
    lambda *_: None,
    lambda out, *inputs: forward_flops(*inputs),
)
infer, infer_to = without_its_frame(infer_op), without_its_frame(infer_to_op)
_MISSING = _native.missing(forward_op)


def reasons(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    device = q.device.type
    if device == "cuda":
        found += _cuda_reasons(q, k, v, q_segments, k_segments, affinity)
    elif device != "cpu":
        found.append(f"no kernel for {device}")
    elif _MISSING is not None:
        found.append(_MISSING)
    if q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    if key is not None:
        found.append("dropout, which the kernels do not draw")
    return found + biased_reasons(bias, softcap)


def _cuda_reasons(
    q: Tensor, k: Tensor, v: Tensor, q_segments: Tensor, k_segments: Tensor, affinity: Tensor | None
) -> list[str]:
    """The same for the CUDA kernel, which has a forward pass only."""
    missing = _native.missing(forward_op, "CUDA")
    found = [] if missing is None else [missing]
    if q.dtype == torch.float32:
        found.append("float32, and the CUDA kernel multiplies float16 and bfloat16")
    D, modalities = q.shape[-1], max(q_segments.shape[1], k_segments.shape[1])
    if D % 8 or D > 256:
        found.append(f"width {D}, and the CUDA kernel takes multiples of 8 up to 256")
    if modalities > 64:
        found.append(f"{modalities} modalities, and the CUDA kernel takes up to 64")
    inputs = (q, k, v) if affinity is None else (q, k, v, affinity)
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if recorded or torch._C._are_functorch_transforms_active():
        found.append("a gradient is recorded, and CUDA has no backward kernel in C++")
    return found


run, record = differentiable(forward_op, backward_op, TENSORS, WRT)
