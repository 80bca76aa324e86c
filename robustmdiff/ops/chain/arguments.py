"""The arguments of chain, checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from robustmdiff.ops.registration import FLOATS, describe


class LinearWeights(NamedTuple):
    """weight [out, in], bias [out]."""

    weight: Tensor
    bias: Tensor


class BlockWeights(NamedTuple):
    """A residual layer whose norm the condition shifts and scales (Peebles and Xie 2023)."""

    modulate: LinearWeights  # [2 width, width]: shift, then scale
    up: LinearWeights  # [hidden, width]
    down: LinearWeights  # [width, hidden]


class NetworkWeights(NamedTuple):
    """A residual network F(x; time, told) in the order in which its layers are read."""

    told: LinearWeights  # [width, f + features of the time]
    condition: LinearWeights  # [width, width]
    enter: LinearWeights  # [width, D]
    blocks: tuple[BlockWeights, ...]
    leave: LinearWeights  # [D, width]

    def layers(self) -> Iterator[LinearWeights]:
        yield from (self.told, self.condition, self.enter)
        for block in self.blocks:
            yield from block
        yield self.leave


class Recurrence(NamedTuple):
    """The columns of the table, of evaluation e (docs/ops/chain.md); the same order in
    csrc/include/rmd/chain.h:

    o_e = F(input x_e),  x_{e+1} = x x_e + output o_e + x_before x_{e-1} + output_before o_{e-1} + sigma z
    """

    input: Tensor | float
    x: Tensor | float
    output: Tensor | float
    x_before: Tensor | float
    output_before: Tensor | float
    sigma: Tensor | float  # 0: nothing is drawn


class Arguments(NamedTuple):
    """What the backends take; see `chain` for what each means."""

    x: Tensor  # [rows, D]
    told: Tensor  # [rows, f]
    weights: NetworkWeights
    time: Tensor  # [E, features of the time]
    table: Tensor  # float32 [E, 6] on the CPU
    key: Tensor | None  # int64 [2]
    row_ids: Tensor | None  # int64 [rows]


def arguments(
    x: Tensor,
    told: Tensor,
    weights: NetworkWeights,
    time: Tensor,
    table: Tensor,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
) -> Arguments:
    """Those of `chain`: TypeError or ValueError where wrong."""
    if x.ndim != 2 or x.dtype not in FLOATS:
        raise ValueError(f"chain: x is {describe(x)}, expected floating-point [rows, D]")
    if told.ndim != 2 or told.shape[0] != x.shape[0]:
        raise ValueError(f"chain: told is {describe(told)}, expected [{len(x)}, f], a row for each of x")
    if time.ndim != 2 or table.shape != (len(time), len(Recurrence._fields)):
        raise ValueError(
            f"chain: time is {describe(time)} and table {describe(table)}, expected [E, features] and "
            f"[E, {len(Recurrence._fields)}]"
        )
    if not (told.dtype == time.dtype == x.dtype and told.device == time.device == x.device):
        raise TypeError(
            f"chain: told is {describe(told)} and time {describe(time)}, expected {x.dtype} on {x.device} "
            "like x"
        )
    if table.device.type != "cpu":
        raise ValueError(f"chain: table is {describe(table)}, expected it on the CPU")
    _check_network(weights, x, told.shape[1] + time.shape[1])
    for name, ids, shape in (("key", key, (2,)), ("row_ids", row_ids, x.shape[:1])):
        if ids is not None and (ids.dtype != torch.int64 or ids.shape != shape or ids.device != x.device):
            raise ValueError(
                f"chain: {name} is {describe(ids)}, expected torch.int64 {list(shape)} on {x.device}"
            )
    return Arguments(x, told, weights, time, table, key, row_ids)


def _check_network(weights: NetworkWeights, x: Tensor, told: int) -> None:
    """Each layer takes what the one before gives, in the dtype of x and on its device."""
    width, latent = len(weights.told.weight), x.shape[1]
    sizes = [(width, told), (width, width), (width, latent)]
    for block in weights.blocks:
        hidden = len(block.up.weight)
        sizes += [(2 * width, width), (hidden, width), (width, hidden)]
    sizes.append((latent, width))
    for i, ((weight, bias), size) in enumerate(zip(weights.layers(), sizes, strict=True)):
        if weight.shape != size or bias.shape != size[:1]:
            raise ValueError(
                f"chain: layer {i} of weights is {list(weight.shape)} with a bias of {list(bias.shape)}, "
                f"expected {list(size)} and [{size[0]}]"
            )
        if not (weight.dtype == bias.dtype == x.dtype and weight.device == bias.device == x.device):
            raise TypeError(
                f"chain: layer {i} of weights is {describe(weight)} with a bias that is {describe(bias)}, "
                f"expected {x.dtype} on {x.device} like x"
            )
