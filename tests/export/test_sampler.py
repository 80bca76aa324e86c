"""The chain as an exported graph has it draws what `ops.chain` draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.export.sampler import SAMPLERS, usual
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.forecast.gaussian import Noise
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.ops import philox_key

D, KEY, PATIENTS = 5, philox_key(7), 2


def forecast_of(kind: str) -> FlowForecast:
    how = {"labels": EXCLUSIVE} | ({"schedule": Schedule(steps=6)} if kind == "ddpm" else {})
    found = {"flow": FlowForecast, "ddpm": DDPMForecast}[kind](D, 4, 3, **how)
    torch.manual_seed(0)
    for p in found.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return found.requires_grad_(False)


class Chain(nn.Module):
    def __init__(self, forecast: FlowForecast, sampler: str) -> None:
        super().__init__()
        self.forecast, self.sampler = forecast, sampler

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        z, told = given["z"].repeat(PATIENTS, 1), given["told"].flatten(0, 1)
        noise = Noise(z, z, steps=given.get("steps"))
        row_ids = torch.arange(given["z"].shape[0]).repeat(PATIENTS)
        return SAMPLERS[self.sampler](self.forecast, z, told, noise, row_ids)


def test_a_short_chain_is_unrolled_and_a_long_one_a_loop():
    assert [usual(forecast_of(kind)) for kind in ("flow", "ddpm")] == ["unrolled", "loop"]
    assert [len(forecast_of(kind).table) for kind in ("flow", "ddpm")] == [4, 6]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["flow", "ddpm"])
def test_exported_it_draws_the_same_of_any_number_of_draws(kind, sampler):
    forecast = forecast_of(kind)

    def given(draws: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(draws)
        z = torch.randn(draws, D, generator=random)
        told = torch.randn(PATIENTS, draws, forecast.told_size, generator=random)
        steps = {"steps": forecast.steps(draws, KEY)} if kind == "ddpm" else {}
        return {"z": z, "told": told, **steps}

    draws = Dim("draws")
    axes = {name: {0 if name == "z" else 1: draws} for name in given(3)}
    program = torch.export.export(Chain(forecast, sampler), (given(3),), dynamic_shapes=(axes,), strict=False)
    loops = [node for node in program.graph.nodes if node.op == "call_function" and "while" in node.name]
    assert len(loops) == (sampler == "loop")
    for n in (3, 7):
        x = given(n)
        z, told = x["z"].repeat(PATIENTS, 1), x["told"].flatten(0, 1)
        expected = forecast.residual(z, told, Noise(z, z, KEY), torch.arange(n).repeat(PATIENTS))
        torch.testing.assert_close(program.module()(x), expected, rtol=2e-5, atol=2e-5)
        if kind == "ddpm":
            other = program.module()(x | {"steps": -x["steps"]})
            assert float((other - expected).abs().mean()) > 0.01
