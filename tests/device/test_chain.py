"""On a GPU a chain is one CUDA graph: the same answers as operator by operator, and how much faster."""

from __future__ import annotations

import os
import time

import pytest
import torch

from robustmdiff import explain, use_backend
from robustmdiff.diffusion.recurrence import ddpm, heun
from robustmdiff.diffusion.schedule import Schedule, StraightPath
from robustmdiff.forecast.flow import ResidualNetwork
from robustmdiff.ops import chain, philox_key

DEVICE = os.environ.get("RMD_TEST_DEVICE", "cpu")
pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA: RMD_TEST_DEVICE is not cuda")

STEPS = {"flow": heun(StraightPath(2), unit=1000.0), "ddpm": ddpm(Schedule(steps=16), 1.0)}


@pytest.fixture(params=STEPS)
def steps(request):
    return STEPS[request.param]


@pytest.mark.parametrize("rows", [16, 1024])
def test_a_chain_is_one_graph(steps, rows, record_property):
    torch.manual_seed(0)
    network = ResidualNetwork(told=61, latent=40).to(DEVICE).requires_grad_(False)
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    key, times = philox_key(3).to(DEVICE), network.time(steps.t.to(DEVICE))

    def run(backend: str, seed: int = 0) -> torch.Tensor:
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
    seconds = {}
    for backend in ("graph", "torch"):
        run(backend)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            run(backend)
        torch.cuda.synchronize()
        seconds[backend] = (time.perf_counter() - start) / 20
    record_property("ms", {backend: 1e3 * found for backend, found in seconds.items()})
