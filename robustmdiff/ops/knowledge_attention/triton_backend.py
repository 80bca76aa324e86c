"""knowledge_attention on Triton: the operators around `robustmdiff.kernels.knowledge_attention`."""

from __future__ import annotations

from torch import Tensor

from robustmdiff.ops import triton_support
from robustmdiff.ops.knowledge_attention.absent import absent_concepts
from robustmdiff.ops.knowledge_attention.arguments import Arguments
from robustmdiff.ops.knowledge_attention.schema import SCHEMA


def reasons(a: Arguments) -> list[str]:
    return triton_support.reasons(a.q, a.q.shape[-1])


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    from robustmdiff.kernels import knowledge_attention

    if a.q.device.type == "cpu":
        absent_concepts(a.log_prior)  # raises for a prior that is NaN or +inf
    return knowledge_attention.forward(a.q, a.concepts, a.log_prior, a.scale)


def backward(grad_out: Tensor, out: Tensor, lse: Tensor, a: Arguments) -> tuple[Tensor, ...]:
    from robustmdiff.kernels import knowledge_attention

    return knowledge_attention.backward(grad_out, out, lse, a.q, a.concepts, a.log_prior, a.scale)


def no_top(a: Arguments) -> list[str]:
    return ["there is no Triton kernel for knowledge_top, torch runs it"]


forward_op, backward_op, run = SCHEMA.operators("_triton", forward, backward)
