"""A whole chain in one call, beside the runtimes that take the exported loop, and torch step by step.

Two limits: the products at the rate of the fastest measured, and to read the packed weights, once an
evaluation, from where they lie.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

import pytest
import torch

from benchmarks import peak
from benchmarks.candidates import Candidate
from benchmarks.limits import BYTES, Limit, matmul
from benchmarks.peers.chain import DDPM, FLOW, MAKERS, Chain, workload


@pytest.mark.parametrize("rows", [1, 16, 64, 1024])
def test_residual_flow(bench, device, dtype, rows):
    sampled(bench, device, dtype, FLOW, rows)


@pytest.mark.parametrize("rows", [1, 16, 64])
def test_ddpm(bench, device, dtype, rows):
    sampled(bench, device, dtype, DDPM, rows)


def sampled(bench, device, dtype, kind, rows) -> None:
    if device != "cpu" or dtype != torch.float32:
        pytest.skip("the exported loops are for the CPU, in float32")
    given = workload(kind, rows)
    makers = {name: once(make) for name, make in MAKERS.items()}
    bench(given, makers, given, [*matmul(device, dtype), *reading(given)], training=False, memory=False)


def once(make: Callable[[Chain], Candidate]) -> Callable[[Chain], Candidate]:
    """The first candidate again: to compile it takes up to a minute, and there is one workload."""
    made: list[Candidate] = []

    def maker(given: Chain) -> Candidate:
        if not made:
            made.append(make(given))
        return made[0]

    return maker


def reading(given: Chain) -> list[Limit]:
    """As many numbers as the network has weights, over and over: from the cache, where they fit into it."""
    numbers = torch.randn(sum(layer.weight.numel() for layer in given.network.weights().layers()))
    rows, ones = numbers[: len(numbers) // 256 * 256].view(-1, 256), torch.ones(256)
    size, times = 4.0 * rows.numel(), len(given.time)
    found = [
        Limit(BYTES, "sum of the weights", size, rows.sum),
        Limit(BYTES, "weights times a vector", size, partial(torch.mv, rows, ones)),
    ]
    if shutil.which("g++"):
        for isa in peak.instruction_sets():
            call = partial(peak.read, isa, rows, times)
            found.append(Limit(BYTES, f"loads {isa}", times * size, call))
    return found
