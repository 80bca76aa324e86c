"""The C++ kernel behind the schema, what it takes, and the weights in its order, made once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.utils.weak import WeakTensorKeyDictionary

from robustmdiff import _native
from robustmdiff.ops.chain.arguments import Arguments, LinearWeights, NetworkWeights
from robustmdiff.ops.chain.schema import Packed, operator
from robustmdiff.ops.chain.without_gradient import only_as_it_is

PANEL = 16  # outputs of a layer whose weights lie side by side
_MISSING = _native.missing(operator)


def reasons(a: Arguments) -> list[str]:
    """Why the kernel cannot take these arguments."""
    found = []
    if not a.x.is_cpu:
        found.append(f"no kernel for {a.x.device.type}")
    if _MISSING is not None:
        found.append(_MISSING)
    if a.x.dtype != torch.float32:
        found.append(f"{a.x.dtype}, and the kernel takes float32")
    width, hidden = len(a.weights.told.weight), {len(block.up.weight) for block in a.weights.blocks}
    if len(hidden) > 1 or any(size % PANEL for size in (width, *hidden)):
        found.append(f"widths are {width} and {sorted(hidden)}, not one multiple of {PANEL} each")
    return found + only_as_it_is(a)


def run(a: Arguments) -> Tensor:
    ready = _ready(a.weights, a.time, a.told.shape[1])
    hidden = len(a.weights.blocks[0].up.weight) if a.weights.blocks else PANEL
    drawn = a.key, a.row_ids
    packed = Packed(a.x, a.told, ready.network, ready.times, a.table, *drawn, hidden, len(a.weights.blocks))
    result: Tensor = operator(*packed)
    return result


class Ready(NamedTuple):
    """A network in the order of the kernel, and what it was made of."""

    made_of: tuple[tuple[int, int], ...]  # address and version of each tensor
    time: Tensor
    network: Tensor
    times: Tensor


_made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by the weight of `leave`


def _ready(weights: NetworkWeights, time: Tensor, f: int) -> Ready:
    """Packed once, and anew where a weight was written to or has another place."""
    tensors = [x for layer in weights.layers() for x in layer]
    if any(x.is_inference() for x in tensors):  # made in inference mode: what writes to them leaves no trace
        return Ready((), time, *pack(weights, time, f))
    made_of = tuple((x.data_ptr(), x._version) for x in tensors)
    found: Ready | None = _made.get(weights.leave.weight)
    if found is None or found.made_of != made_of or not torch.equal(found.time, time):
        found = _made[weights.leave.weight] = Ready(made_of, time.clone(), *pack(weights, time, f))
    return found


@torch.no_grad()
def pack(weights: NetworkWeights, time: Tensor, f: int) -> tuple[Tensor, Tensor]:
    """Packed.network and Packed.times; of what is told, f numbers are not the time."""
    weight, bias = weights.told
    times = linear(time, weight[:, f:], bias)
    told = LinearWeights(weight[:, :f], torch.zeros_like(bias))
    layers = weights._replace(told=told).layers()
    return torch.cat([part for layer in layers for part in _panels(layer)]), times


def _panels(layer: LinearWeights) -> tuple[Tensor, Tensor]:
    """Bias, and weights [panels][inputs][PANEL], padded with 0."""
    weight, bias = layer
    out, inputs = weight.shape
    missing = -out % PANEL
    panels = pad(weight, (0, 0, 0, missing)).view((out + missing) // PANEL, PANEL, inputs).mT
    return pad(bias, (0, missing)), panels.reshape(-1)
