"""The C++ kernels behind the schema: what they take, and their gradient."""

from __future__ import annotations

import torch

from robustmdiff import _native
from robustmdiff.ops.masked_attention.arguments import Arguments
from robustmdiff.ops.masked_attention.schema import PLAIN, biased_reasons

forward_op, backward_op, run = PLAIN.operators("")
_MISSING = _native.missing(forward_op)


def reasons(a: Arguments) -> list[str]:
    """Why the kernels cannot take these arguments."""
    found = []
    if a.q.is_cuda:
        found += _cuda_reasons(a)
    elif not a.q.is_cpu:
        found.append(f"no kernel for {a.q.device.type}")
    elif _MISSING is not None:
        found.append(_MISSING)
    if a.q.dtype == torch.float64:
        found.append("float64, and the kernels compute in float32")
    if a.key is not None:
        found.append("dropout, which the kernels do not draw")
    return found + biased_reasons(a)


def _cuda_reasons(a: Arguments) -> list[str]:
    """The same for the CUDA kernel, which has a forward pass only."""
    missing = _native.missing(forward_op, "CUDA")
    found = [] if missing is None else [missing]
    if a.q.dtype == torch.float32:
        found.append("float32, and the CUDA kernel multiplies float16 and bfloat16")
    D, modalities = a.q.shape[-1], max(a.q_segments.shape[1], a.k_segments.shape[1])
    if D % 8 or D > 256:
        found.append(f"width {D}, and the CUDA kernel takes multiples of 8 up to 256")
    if modalities > 64:
        found.append(f"{modalities} modalities, and the CUDA kernel takes up to 64")
    inputs = (a.q, a.k, a.v, a.affinity)
    recorded = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    if recorded or torch._C._are_functorch_transforms_active():
        found.append("a gradient is recorded, and CUDA has no backward kernel in C++")
    return found
