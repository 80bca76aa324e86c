"""The whole chain as one CUDA graph: torch's operators and its noise captured once for inputs of a form, and
replayed. Written, not run: no GPU has run it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from robustmdiff.ops.chain import definition
from robustmdiff.ops.chain.arguments import Arguments
from robustmdiff.ops.chain.without_gradient import only_as_it_is

MOST = 8  # graphs kept of a network, the last used; each holds the memory of a chain

_captured: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by the weight of `leave`
_one_at_a_time = threading.Lock()  # a graph has one place for its inputs


class Captured(NamedTuple):
    """A graph, the tensors that it reads, and the one that it writes. It does not hold the weights, which
    live no longer for it."""

    graph: Any
    inputs: list[Tensor]
    out: Tensor


def reasons(a: Arguments) -> list[str]:
    """Why the chain is no graph of its own."""
    if a.x.device.type != "cuda":
        return [f"there are no graphs on {a.x.device.type}"]
    found = only_as_it_is(a)
    if torch.cuda.is_current_stream_capturing():
        found.append("a graph is being captured, and takes the operators one by one")
    return found


def run(a: Arguments) -> Tensor:
    with _one_at_a_time:
        captured = _graph_of(a)
        for place, x in zip(captured.inputs, inputs_of(a), strict=True):
            place.copy_(x)
        captured.graph.replay()
        return captured.out.clone()


def inputs_of(a: Arguments) -> list[Tensor]:
    """What may differ from call to call; weights are read where they lie, and a graph has its table in it."""
    return [x for x in (a.x, a.told, a.time, a.key, a.row_ids) if x is not None]


def _graph_of(a: Arguments) -> Captured:
    """One for each form of the inputs, table, place of the weights, and stream: a stream keeps the order."""
    forms = tuple((x.shape, x.dtype) for x in inputs_of(a))
    places = tuple(x.data_ptr() for layer in a.weights.layers() for x in layer)
    named = forms, a.key is None, a.table.numpy().tobytes(), places, stream_of(a.x)
    kept: OrderedDict[Any, Captured] = _captured.setdefault(a.weights.leave.weight, OrderedDict())
    if named not in kept:
        kept[named] = capture(a)
    kept.move_to_end(named)
    if len(kept) > MOST:
        kept.popitem(last=False)
    return kept[named]


def stream_of(x: Tensor) -> int:
    return torch.cuda.current_stream(x.device).cuda_stream


def capture(a: Arguments) -> Captured:
    given = a._replace(
        x=a.x.clone(),
        told=a.told.clone(),
        time=a.time.clone(),
        key=None if a.key is None else a.key.clone(),
        row_ids=None if a.row_ids is None else a.row_ids.clone(),
    )
    stream = torch.cuda.Stream(a.x.device)
    stream.wait_stream(torch.cuda.current_stream(a.x.device))
    with torch.cuda.stream(stream):  # libraries make what they need at their first call, outside of a graph
        definition.chain(given)
    torch.cuda.current_stream(a.x.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        out = definition.chain(given)
    return Captured(graph, inputs_of(given), out)
