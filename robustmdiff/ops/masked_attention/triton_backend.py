"""masked_attention on Triton: the operators around `robustmdiff.kernels.masked_attention`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.ops import triton_support
from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.masked_attention.schema import WRT, biased_reasons, declare
from robustmdiff.ops.masked_attention.segments import check_segments
from robustmdiff.ops.registration import implement


def reasons(q: Tensor, *others: Any) -> list[str]:
    return triton_support.reasons(q, q.shape[-1]) + biased_reasons(*others[9:])


def forward(
    q: Tensor, k: Tensor, v: Tensor, q_segments: Tensor, k_segments: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    from robustmdiff.kernels import masked_attention

    if q.device.type == "cpu":
        check_segments("q_segments", q_segments.numpy(), q.shape[0])
        check_segments("k_segments", k_segments.numpy(), k.shape[0])
    return masked_attention.forward(q, k, v, q_segments, k_segments, *settings)


def backward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from robustmdiff.kernels import masked_attention

    return masked_attention.backward(*args)


forward_op, backward_op = declare("_triton")
implement("masked_attention_fwd_triton", forward)
implement("masked_attention_bwd_triton", backward)
run = differentiable(
    "masked_attention", forward_op, backward_op, wrt=WRT, outputs=(True, False), keep_outputs=True
)
