"""The C++ kernels behind the schema: what they take, and their gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.masked_attention.schema import WRT, biased_reasons, declare

forward_op, backward_op = declare("")
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


run = differentiable(
    "masked_attention", forward_op, backward_op, wrt=WRT, outputs=(True, False), keep_outputs=True
)
