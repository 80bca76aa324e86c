"""masked_attention on Triton: the operators around `robustmdiff.kernels.masked_attention`."""

from __future__ import annotations

from torch import Tensor

from robustmdiff.ops import triton_support
from robustmdiff.ops.masked_attention.arguments import Arguments
from robustmdiff.ops.masked_attention.schema import PLAIN, biased_reasons
from robustmdiff.ops.masked_attention.segments import check_segments


def reasons(a: Arguments) -> list[str]:
    return triton_support.reasons(a.q, a.q.shape[-1]) + biased_reasons(a)


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    from robustmdiff.kernels import masked_attention

    if a.q.device.type == "cpu":
        check_segments("q_segments", a.q_segments.numpy(), a.q.shape[0])
        check_segments("k_segments", a.k_segments.numpy(), a.k.shape[0])
    return masked_attention.forward(a)


def backward(grad_out: Tensor, out: Tensor, lse: Tensor, a: Arguments) -> tuple[Tensor, ...]:
    from robustmdiff.kernels import masked_attention

    return masked_attention.backward(grad_out, out, lse, a)


forward_op, backward_op, run = PLAIN.operators("_triton", forward, backward)
