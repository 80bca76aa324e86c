"""What chain means: a residual network, and the recurrence that samplers make of its answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.functional import gelu, layer_norm, linear, silu

from robustmdiff.ops.chain.arguments import Arguments, BlockWeights, NetworkWeights, Recurrence
from robustmdiff.ops.philox import philox_normal


def block(h: Tensor, c: Tensor, weights: BlockWeights) -> Tensor:
    """h + down gelu(up (norm(h) (1 + scale) + shift)), shift and scale of the condition c (Peebles and Xie
    2023)."""
    shift, scale = linear(c, *weights.modulate).chunk(2, dim=-1)
    normed = layer_norm(h, h.shape[-1:]) * (1 + scale) + shift
    return h + linear(gelu(linear(normed, *weights.up)), *weights.down)


def network(x: Tensor, time: Tensor, told: Tensor, weights: NetworkWeights) -> Tensor:
    """F(x; time, told) [rows, D], time [features] or [rows, features]."""
    known = torch.cat([told, time.expand(told.shape[0], -1)], dim=-1)
    c = silu(linear(silu(linear(known, *weights.told)), *weights.condition))
    h = linear(x, *weights.enter)
    for each in weights.blocks:
        h = block(h, c, each)
    return linear(h, *weights.leave)


def chain(a: Arguments) -> Tensor:
    """In the dtype of the arguments."""
    x = a.x
    x_before = o_before = torch.zeros_like(x)
    for e, row in enumerate(a.table.to(x.dtype)):
        r = Recurrence(*row)
        o = network(r.input * x, a.time[e], a.told, a.weights)
        after = r.x * x + r.output * o + r.x_before * x_before + r.output_before * o_before
        if a.key is not None:
            step = torch.full((x.shape[0],), e, dtype=torch.int64, device=x.device)
            after = after + r.sigma * philox_normal(a.key, step, a.row_ids, x.shape[1]).to(x.dtype)
        elif not is_compiling() and r.sigma != 0:
            raise ValueError(
                f"chain: sigma of row {e} is {float(r.sigma)} and key is None, expected int64 [2]"
            )
        x, x_before, o_before = after, x, o
    return x
