"""On a GPU a chain is one CUDA graph: the same answers as operator by operator, and how much faster than that
and than a graph for each step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustmdiff import explain, use_backend
from robustmdiff.diffusion.recurrence import ddpm, heun
from robustmdiff.diffusion.schedule import Schedule, StraightPath
from robustmdiff.forecast.flow import ResidualNetwork
from robustmdiff.ops import chain, philox_key
from robustmdiff.ops.chain import NetworkWeights, Recurrence
from robustmdiff.ops.chain.definition import State, evaluated
from robustmdiff.ops.philox import philox_normal

DEVICE = os.environ.get("RMD_TEST_DEVICE", "cpu")
pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA: RMD_TEST_DEVICE is not cuda")

STEPS = {"flow": heun(StraightPath(2), unit=1000.0), "ddpm": ddpm(Schedule(steps=16), 1.0)}


@pytest.fixture(params=STEPS)
def steps(request):
    return STEPS[request.param]


def a_graph_a_step(
    x: Tensor, told: Tensor, weights: NetworkWeights, times: Tensor, table: Tensor, key: Tensor
) -> Callable[[], Tensor]:
    """One evaluation captured, and replayed for each row of the table: a chain driven from outside."""
    state = State(x.clone(), torch.zeros_like(x), torch.zeros_like(x))
    row, time = table[0].clone(), times[0].clone()
    step = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def evaluate() -> None:
        r = Recurrence(*row)
        after = evaluated(state, r, time, told, weights)
        drawn = after.x + r.sigma * philox_normal(key, step, None, x.shape[1])
        state.x_before.copy_(state.x)
        state.o_before.copy_(after.o_before)
        state.x.copy_(drawn)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        evaluate()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        evaluate()

    def run() -> Tensor:
        for place, start in zip(state, State.before(x), strict=True):
            place.copy_(start)
        for e in range(len(table)):
            row.copy_(table[e])
            time.copy_(times[e])
            step.fill_(e)
            graph.replay()
        return state.x.clone()

    return run


@pytest.mark.parametrize("rows", [16, 1024])
def test_a_chain_is_one_graph(steps, rows, record_property):
    torch.manual_seed(0)
    network = ResidualNetwork(told=61, latent=40).to(DEVICE).requires_grad_(False)
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    key, times = philox_key(3).to(DEVICE), network.time(steps.t.to(DEVICE))

    def run(backend: str, seed: int = 0) -> Tensor:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        x, told = (torch.randn(rows, n, device=DEVICE, generator=generator) for n in (40, 61))
        with use_backend(chain=backend), torch.no_grad():
            return chain(x, told, network.weights(), times, steps.table, key=key + seed)

    x, told = torch.randn(rows, 40, device=DEVICE), torch.randn(rows, 61, device=DEVICE)
    with torch.no_grad():
        assert explain("chain", x, told, network.weights(), times, steps.table, key=key).chosen == "graph"
    for seed in (0, 1, 0):
        torch.testing.assert_close(run("graph", seed), run("torch", seed), rtol=1e-5, atol=1e-5)
    network.enter.weight.mul_(2)
    torch.testing.assert_close(run("graph"), run("torch"), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        driven = a_graph_a_step(x, told, network.weights(), times, steps.table.to(DEVICE), key)
        found = driven(), chain(x, told, network.weights(), times, steps.table, key=key)
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
        ms = {"a graph a step": milliseconds(driven)}
        for backend in ("graph", "torch"):
            with use_backend(chain=backend):
                ms[backend] = milliseconds(
                    lambda: chain(x, told, network.weights(), times, steps.table, key=key)
                )
    record_property("ms", ms)


def milliseconds(call: Callable[[], Tensor]) -> float:
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        call()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / 20
