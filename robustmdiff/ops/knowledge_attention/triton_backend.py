"""knowledge_attention on Triton: the operators around `robustmdiff.kernels.knowledge_attention`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.ops import triton_support
from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.knowledge_attention.absent import absent_concepts
from robustmdiff.ops.knowledge_attention.schema import WRT, declare
from robustmdiff.ops.registration import implement


def reasons(q: Tensor, *_: Any) -> list[str]:
    return triton_support.reasons(q, q.shape[-1])


def forward(q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    from robustmdiff.kernels import knowledge_attention

    if q.device.type == "cpu":
        absent_concepts(log_prior)  # raises for a prior that is NaN or +inf
    return knowledge_attention.forward(q, concepts, log_prior, scale)


def backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from robustmdiff.kernels import knowledge_attention

    return knowledge_attention.backward(*args)


def no_top(*_: Any) -> list[str]:
    return ["there is no Triton kernel for knowledge_top, torch runs it"]


forward_op, backward_op = declare("_triton")
implement("knowledge_attention_fwd_triton", forward)
implement("knowledge_attention_bwd_triton", backward)
run = differentiable(
    "knowledge_attention", forward_op, backward_op, wrt=WRT, outputs=(True, False), keep_outputs=True
)
