"""The operator of chain as torch's dispatcher knows it: the network packed, its time embedded."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from robustmdiff.ops.registration import define, inputs_of


class Packed(NamedTuple):
    """What the kernels take, in the order of the schema."""

    x: Tensor  # [rows, D]
    told: Tensor  # [rows, f]
    network: Tensor  # every layer one after the other, as csrc/include/rmd/chain.h says
    times: Tensor  # [E, width]: what the first layer makes of the time, with its bias
    table: Tensor  # [E, 6]
    key: Tensor | None
    row_ids: Tensor | None
    hidden: int
    blocks: int


def _fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _flops(x: Tensor, told: Tensor, network: Tensor, times: Tensor, *_: Any) -> int:
    """A multiply-add for each weight, row and evaluation; biases and what pads a layer count."""
    return 2 * len(x) * len(times) * network.numel()


operator = define("chain", f"({inputs_of(Packed, Packed._fields)}) -> Tensor", _fake, _flops)
