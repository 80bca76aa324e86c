"""Chains as recurrences are the samplers of that name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.diffusion.precondition import Precondition
from robustmdiff.diffusion.recurrence import Steps, ddim, ddpm, dpmpp_2m, euler, heun
from robustmdiff.diffusion.sample import (
    Denoise,
    reverse_variance,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    sample_heun,
)
from robustmdiff.diffusion.schedule import Level, Schedule, StraightPath, along
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.forecast.gaussian import Noise
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.ops import philox_key
from robustmdiff.ops.ddpm.table import Coefficients

KEY = philox_key(7, 1)
D = 5


def network(x: Tensor, t: Tensor, told: Tensor) -> Tensor:
    """Bent in everything that it is told."""
    return torch.tanh(x + told[:, :1]) + torch.sin(t / 300) * x.flip(1)


@pytest.mark.parametrize("path", [StraightPath(1), StraightPath(2), StraightPath(7)])
def test_heun(path):
    z, told = torch.randn(2, 9, D, dtype=torch.float64).unbind()
    t, table = heun(path, unit=1000.0)
    assert len(t) == 2 * path.steps
    assert not table[:, 5].any()
    exact = sample_heun(lambda x, level, told: network(x, 1000 * level.t, told), path, z, told)
    torch.testing.assert_close(recurred(Steps(t, table), z, told), exact, rtol=1e-6, atol=1e-6)


def with_weights(forecast: FlowForecast) -> FlowForecast:
    torch.manual_seed(0)
    for p in forecast.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return forecast


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_flow_draws_what_sample_heun_draws(backend):
    flow = with_weights(FlowForecast(D, 4, 3, EXCLUSIVE))
    z, told = torch.randn(9, D), torch.randn(9, flow.told_size)
    with torch.no_grad(), use_backend(chain=backend):
        ours = flow.residual(z, told, Noise(z, z), torch.arange(9))
        exact = sample_heun(flow.velocity, StraightPath(2), z, told)
    torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("schedule", [Schedule(steps=4), Schedule(steps=16, beta_schedule="linear")])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_paper_s_diffusion_draws_what_sample_ddpm_draws(backend, schedule):
    forecast = with_weights(DDPMForecast(D, 4, 3, EXCLUSIVE, schedule=schedule))
    z, told, ids = torch.randn(9, D), torch.randn(9, forecast.told_size), torch.arange(9) % 4
    with torch.no_grad(), use_backend(chain=backend):
        ours = forecast.residual(z, told, Noise(z, z, KEY), ids)
        spread = torch.ones_like(z)
        exact = sample_ddpm(forecast.denoise, schedule, z, told, key=KEY, row_ids=ids, spread=spread)
    torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-5)


def recurred(steps: Steps, x: Tensor, told: Tensor) -> Tensor:
    """The recurrence in float64, around `network`; nothing is drawn."""
    before = said_before = torch.zeros_like(x)
    for at, (c_in, keep, add, kept, said, _) in zip(steps.t, steps.table.double(), strict=True):
        o = network(c_in * x, at, told)
        x, before, said_before = keep * x + add * o + kept * before + said * said_before, x, o
    return x


def denoiser(variance: float) -> Denoise:
    def denoise(x: Tensor, level: Level, told: Tensor) -> Tensor:
        p = Precondition.of_gaussian(level, x.new_full((1,), variance))
        return p.c_skip * x + p.c_out * network(p.c_in * x, p.c_noise, told)

    return denoise


@pytest.mark.parametrize("variance", [0.3, 1.0])
@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize(("recurrence", "sample"), [(ddim, sample_ddim), (dpmpp_2m, sample_dpmpp_2m)])
def test_what_draws_nothing_on_its_way(recurrence, sample, n, variance):
    z, told = torch.randn(2, 9, D, dtype=torch.float64).unbind()
    schedule = Schedule(steps=n)
    exact = sample(denoiser(variance), schedule, z, told)
    torch.testing.assert_close(recurred(recurrence(schedule, variance), z, told), exact, rtol=1e-5, atol=1e-5)


def test_euler():
    z, told = torch.randn(2, 9, D, dtype=torch.float64).unbind()
    path = StraightPath(7)

    def denoise(x: Tensor, level: Level, told: Tensor) -> Tensor:
        return x - level.t * network(x, 1000 * level.t, told)

    exact = sample_ddim(denoise, path, z, told)
    torch.testing.assert_close(recurred(euler(path, unit=1000.0), z, told), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variance", [0.3, 1.0])
def test_ddpm_of_another_variance(variance):
    """Noise apart, which `test_the_paper_s_diffusion` draws: the same mean, and the spread of each step."""
    z, told = torch.randn(2, 9, D, dtype=torch.float64).unbind()
    schedule = Schedule(steps=9)
    steps = ddpm(schedule, variance)
    x_0 = denoiser(variance)(z, next(along(schedule.levels)), told)
    c = Coefficients(*schedule.table[0].double())
    first = Steps(steps.t[:1], steps.table[:1])
    torch.testing.assert_close(
        recurred(first, z, told), c.weight_x0 * x_0 + c.weight_xt * z, rtol=1e-5, atol=1e-5
    )
    spread = torch.tensor([variance], dtype=torch.float64)
    for row, sigma in zip(schedule.table.double(), steps.table[:, 5], strict=True):
        assert float(sigma) ** 2 == pytest.approx(float(reverse_variance(row, spread)), rel=1e-5)
    assert ddpm(Schedule(T=4, steps=4), variance).table[-1, 5] == 0  # timestep 0 draws nothing


def test_what_is_told_of_the_time_is_that_of_the_levels():
    schedule = Schedule(steps=5)
    assert torch.equal(ddpm(schedule, 1.0).t, schedule.levels.t.float())
    torch.testing.assert_close(heun(StraightPath(2), unit=10.0).t, torch.tensor([10.0, 5.0, 5.0, 0.0]))
