"""The operators of knowledge_attention and knowledge_top as torch's dispatcher knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.attention import AttentionSchema
from robustmdiff.ops.knowledge_attention.arguments import Arguments
from robustmdiff.ops.registration import define, inputs_of, lse_dtype


def flops(a: Arguments) -> int:
    """2 multiply-adds for each width, head, row and concept."""
    return 4 * a.q.shape[0] * a.q.shape[1] * a.q.shape[2] * a.concepts.shape[0]


SCHEMA = AttentionSchema(
    "knowledge_attention", Arguments, Arguments._fields[:4], ("q", "concepts", "log_prior"), flops
)


def top_operator(suffix: str) -> Any:
    """Define the operator of knowledge_top of one backend; "" is the native one."""

    def fake(*inputs: Any) -> tuple[Tensor, Tensor]:
        a = Arguments(*inputs)
        shape = (*a.q.shape[:2], a.n)
        return a.q.new_empty(shape, dtype=torch.int64), a.q.new_empty(shape, dtype=lse_dtype(a.q.dtype))

    inputs = inputs_of(Arguments, Arguments._fields)
    schema = f"({inputs}) -> (Tensor index, Tensor weight)"
    return define(f"knowledge_top{suffix}", schema, fake, lambda *inputs: flops(Arguments(*inputs)) // 2)
