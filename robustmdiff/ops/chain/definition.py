"""What chain means: a residual network, and the recurrence that samplers make of its answers."""

from __future__ import annotations

from typing import NamedTuple, Self

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


class State(NamedTuple):
    """What an evaluation starts from, [rows, D] each."""

    x: Tensor
    x_before: Tensor
    o_before: Tensor

    @classmethod
    def before(cls, x: Tensor) -> Self:
        """The first."""
        return cls(x, torch.zeros_like(x), torch.zeros_like(x))


def evaluated(state: State, r: Recurrence, time: Tensor, told: Tensor, weights: NetworkWeights) -> State:
    """After one evaluation, without its noise."""
    x, x_before, o_before = state
    o = network(r.input * x, time, told, weights)
    return State(r.x * x + r.output * o + r.x_before * x_before + r.output_before * o_before, x, o)


def chain(a: Arguments) -> Tensor:
    """In the dtype of the arguments."""
    state = State.before(a.x)
    for e, row in enumerate(a.table.to(a.x.dtype)):
        r = Recurrence(*row)
        state = evaluated(state, r, a.time[e], a.told, a.weights)
        if a.key is not None:
            step = torch.full((a.x.shape[0],), e, dtype=torch.int64, device=a.x.device)
            z = philox_normal(a.key, step, a.row_ids, a.x.shape[1]).to(a.x.dtype)
            state = state._replace(x=state.x + r.sigma * z)
        elif not is_compiling() and r.sigma != 0:
            raise ValueError(
                f"chain: sigma of row {e} is {float(r.sigma)} and key is None, expected int64 [2]"
            )
    return state.x
