"""Networks to sample with, in float64, and the chain once more, written apart from its definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustmdiff.ops.chain import BlockWeights, LinearWeights, NetworkWeights
from robustmdiff.ops.philox import philox_normal
from robustmdiff.testing import draw

FEATURES = 5  # of the time


def network_of(D: int, f: int, width: int, hidden: int, blocks: int) -> NetworkWeights:
    seeds = iter(range(1000))

    def linear(out: int, inputs: int) -> LinearWeights:
        weight = draw(out, inputs, seed=next(seeds)) / math.sqrt(max(inputs, 1))
        return LinearWeights(weight, draw(out, seed=next(seeds)) / 4)

    return NetworkWeights(
        linear(width, f + FEATURES),
        linear(width, width),
        linear(width, D),
        tuple(
            BlockWeights(linear(2 * width, width), linear(hidden, width), linear(width, hidden))
            for _ in range(blocks)
        ),
        linear(D, width),
    )


def to(weights: NetworkWeights, dtype: torch.dtype) -> NetworkWeights:
    def cast(layer: LinearWeights) -> LinearWeights:
        return LinearWeights(layer.weight.to(dtype), layer.bias.to(dtype))

    blocks = tuple(BlockWeights(*map(cast, block)) for block in weights.blocks)
    told, condition, enter, leave = map(cast, (*weights[:3], weights.leave))
    return NetworkWeights(told, condition, enter, blocks, leave)


def by_modules(x: Tensor, time: Tensor, told: Tensor, weights: NetworkWeights) -> Tensor:
    """The network of torch's modules and of products written out."""

    def product(x: Tensor, layer: LinearWeights) -> Tensor:
        return torch.einsum("ri,oi->ro", x, layer.weight) + layer.bias

    known = torch.cat([told, time.repeat(len(told), 1)], 1)
    c = nn.SiLU()(product(nn.SiLU()(product(known, weights.told)), weights.condition))
    h = product(x, weights.enter)
    for modulate, up, down in weights.blocks:
        shift, scale = product(c, modulate).tensor_split(2, 1)
        centred = h - h.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        inner = product(normed * (1 + scale) + shift, up)
        h = h + product(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, down)
    return product(h, weights.leave)


def by_hand(
    x: Tensor,
    told: Tensor,
    weights: NetworkWeights,
    time: Tensor,
    table: Tensor,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
) -> Tensor:
    said = [torch.zeros_like(x)]
    at = [torch.zeros_like(x), x]
    for e, (c_in, keep, add, before, said_before, sigma) in enumerate(table.tolist()):
        said.append(by_modules(c_in * at[-1], time[e], told, weights))
        x = keep * at[-1] + add * said[-1] + before * at[-2] + said_before * said[-2]
        if sigma:
            assert key is not None
            step = torch.full((len(x),), e)
            x = x + sigma * philox_normal(key, step, row_ids, x.shape[1]).to(x.dtype)
        at.append(x)
    return at[-1]
