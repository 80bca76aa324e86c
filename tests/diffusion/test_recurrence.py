"""Chains as recurrences are the samplers of that name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.diffusion.precondition import Precondition
from robustmdiff.diffusion.recurrence import ddpm, heun
from robustmdiff.diffusion.sample import sample_ddpm, sample_heun
from robustmdiff.diffusion.schedule import Level, Schedule, StraightPath
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.ops import chain, philox_key

KEY = philox_key(7, 1)
D, TOLD = 5, 3


def network(x: Tensor, t: Tensor, told: Tensor) -> Tensor:
    """Bent in everything that it is told."""
    return torch.tanh(x + told[:, :1]) + torch.sin(t / 300) * x.flip(1)


@pytest.mark.parametrize("path", [StraightPath(1), StraightPath(2), StraightPath(7)])
def test_heun(path):
    z, told = torch.randn(2, 9, D, dtype=torch.float64).unbind()
    t, table = heun(path, unit=1000.0)
    assert len(t) == 2 * path.steps
    x = z
    before = said_before = torch.zeros_like(z)
    for at, (c_in, keep, add, kept, said, sigma) in zip(t, table.double(), strict=True):
        o = network(c_in * x, at, told)
        x, before, said_before = keep * x + add * o + kept * before + said * said_before, x, o
        assert sigma == 0
    exact = sample_heun(lambda x, level, told: network(x, 1000 * level.t, told), path, z, told)
    torch.testing.assert_close(x, exact, rtol=1e-6, atol=1e-6)


def with_weights(forecast: FlowForecast) -> FlowForecast:
    torch.manual_seed(0)
    for p in forecast.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return forecast


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_flow_draws_what_sample_heun_draws(backend):
    flow = with_weights(FlowForecast(D, 4, 3, exclusive=True))
    z, told = torch.randn(9, D), torch.randn(9, flow.told_size)
    with torch.no_grad(), use_backend(chain=backend):
        ours = flow.residual(z, told, None, torch.arange(9))
        exact = sample_heun(flow.velocity, StraightPath(2), z, told)
    torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("schedule", [Schedule(steps=4), Schedule(steps=16, beta_schedule="linear")])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_paper_s_diffusion_draws_what_sample_ddpm_draws(backend, schedule):
    forecast = with_weights(DDPMForecast(D, 4, 3, exclusive=True, schedule=schedule))
    z, told, ids = torch.randn(9, D), torch.randn(9, forecast.told_size), torch.arange(9) % 4
    with torch.no_grad(), use_backend(chain=backend):
        ours = forecast.residual(z, told, KEY, ids)
        spread = torch.ones_like(z)
        exact = sample_ddpm(forecast.denoise, schedule, z, told, key=KEY, row_ids=ids, spread=spread)
    torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("variance", [0.3, 1.0])
def test_ddpm_of_another_variance(variance):
    """By a network that is a few constants: its weights are 0 but for the biases that leave."""
    from robustmdiff.ops.chain import BlockWeights, LinearWeights, NetworkWeights

    def linear(out: int, inputs: int) -> LinearWeights:
        return LinearWeights(torch.zeros(out, inputs), torch.zeros(out))

    leave = LinearWeights(torch.zeros(D, 16), torch.linspace(-1, 1, D))
    block = BlockWeights(linear(32, 16), linear(16, 16), linear(16, 16))
    weights = NetworkWeights(linear(16, TOLD + 2), linear(16, 16), linear(16, D), (block,), leave)
    schedule = Schedule(steps=9)
    steps = ddpm(schedule, variance)
    z, told = torch.randn(6, D), torch.zeros(6, TOLD)

    def denoise(x: Tensor, level: Level, condition: None) -> Tensor:
        p = Precondition.of_gaussian(level, x.new_full((1,), variance))
        return p.c_skip * x + p.c_out * leave.bias

    ours = chain(z, told, weights, torch.zeros(9, 2), steps.table, key=KEY)
    exact = sample_ddpm(denoise, schedule, z, key=KEY, spread=torch.full_like(z, variance))
    torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-5)


def test_what_is_told_of_the_time_is_that_of_the_levels():
    schedule = Schedule(steps=5)
    assert torch.equal(ddpm(schedule, 1.0).t, schedule.levels.t.float())
    torch.testing.assert_close(heun(StraightPath(2), unit=10.0).t, torch.tensor([10.0, 5.0, 5.0, 0.0]))
