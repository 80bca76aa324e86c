"""Forecasts in a world whose conditional distributions are known."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

import pytest
import torch

from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.forecast import fitting
from robustmdiff.forecast.contract import Pairs, Seen
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.forecast.gaussian import GaussianForecast
from robustmdiff.labels import EXCLUSIVE, INDEPENDENT
from robustmdiff.ops import philox_key
from tests.forecast import world

KINDS = {
    "gaussian": GaussianForecast,
    "flow": FlowForecast,
    "ddpm": lambda *sizes, **labels: DDPMForecast(*sizes, **labels, schedule=Schedule(steps=16)),
}


def new(kind):
    return KINDS[kind](world.D, world.M, world.C, EXCLUSIVE)


@contextmanager
def steps(n):
    """So many of each fit."""
    fit = fitting.fit
    with pytest.MonkeyPatch.context() as patch:
        for module in ("gaussian", "flow"):
            patch.setattr(f"robustmdiff.forecast.{module}.fit", lambda *a, **k: fit(*a, **{**k, "steps": n}))
        yield


@pytest.fixture(scope="module", params=["gaussian", "flow"])
def forecast(request):
    forecast = new(request.param)
    with steps(400):
        forecast.fit(world.pairs(800, seed=1), philox_key(3))
    return forecast


@pytest.fixture(scope="module")
def others():
    return world.pairs(60, seed=2)


def told(seen: Seen, c: int) -> Seen:
    """The class is known."""
    return seen._replace(p=torch.eye(world.C)[c].expand(len(seen.y), -1))


def test_mean_and_spread_given_the_class_are_those_of_the_world(forecast, others):
    seen, view = others.seen, others.view
    for c in range(world.C):
        mine = others.label[:, c] == 1
        mean, covariance = world.given_class(seen.y[mine], seen.m[mine], c)
        sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        draws = forecast.draw(told(seen.take(mine), c), view[mine], 256, philox_key(5))
        error = (draws.mean(1) - mean) / sd
        assert float(error.square().mean()) < 0.1  # .02 to .05, of which 1 / 64 are the draws' own
        assert abs(float((draws.std(1) / sd).mean()) - 1) < 0.16  # .01 to .08


def test_intervals_hold_what_they_promise(forecast, others):
    """Nine of ten, class drawn and all: 420 rows of 60 patients."""
    K = 64
    draws = forecast.draw(others.seen, others.view, K, philox_key(5)).sort(1).values
    low, high = draws[:, 2], draws[:, K - 3]  # 3 / 65 and 62 / 65
    covered = ((others.y > low) & (others.y < high)).float().mean()
    assert abs(float(covered) - 59 / 65) < 0.05  # .90 to .93


def test_a_spread_takes_draws_farther_from_the_mean(others):
    """Twice as far: with the same noise, and the class known, every draw."""
    forecast = new("flow")
    with steps(20):
        forecast.fit(world.pairs(30, seed=1), philox_key(3))
    how = told(others.seen, 0), others.view, 8, philox_key(5)
    near, far, farther = (forecast.draw(*how) for forecast.spread in torch.arange(3.0))
    torch.testing.assert_close(farther - far, far - near, atol=1e-4, rtol=1e-4)


def test_draws_are_repeated_to_the_bit_and_their_patients_own(forecast, others):
    few = others.take(torch.arange(40))
    draws = forecast.draw(few.seen, few.view, 6, philox_key(5))
    assert torch.equal(draws, forecast.draw(few.seen, few.view, 6, philox_key(5)))
    assert not torch.equal(draws, forecast.draw(few.seen, few.view, 6, philox_key(6)))
    one = torch.tensor([17])
    alone = forecast.draw(few.seen.take(one), few.view[one], 6, philox_key(5))
    torch.testing.assert_close(alone[0], draws[17], rtol=1e-4, atol=1e-5)


def test_where_nothing_is_added_every_draw_is_what_is_known(forecast, others):
    few = others.take(torch.arange(7))
    draws = forecast.draw(few.seen, few.seen.m, 5, philox_key(5))
    assert torch.equal(draws, few.seen.y[:, None].expand(-1, 5, -1))


def test_evidence_that_is_hidden_is_not_read(forecast, others):
    few = others.take(torch.arange(40))
    poisoned = few.seen.evidence.masked_fill(~few.seen.m[..., None], torch.nan)
    draws = forecast.draw(few.seen._replace(evidence=poisoned), few.view, 6, philox_key(5))
    assert torch.equal(draws, forecast.draw(few.seen, few.view, 6, philox_key(5)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learned_is_decided_by_the_pairs_and_the_key(kind):
    pairs, found = world.pairs(30, seed=1), []
    for start, key in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(start)
        forecast = new(kind)
        before = torch.random.get_rng_state()
        with steps(30):
            forecast.fit(pairs, philox_key(key))
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(torch.cat([p.flatten() for p in forecast.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.fixture(scope="module")
def between():
    """The share of a forecast's draws between two peaks: what modality b adds is 2 or -2."""
    g = torch.Generator().manual_seed(0)
    n = 600
    a, b = torch.randn(n, 1, generator=g), 4.0 * torch.randint(2, (n, 1), generator=g) - 2
    b = b + 0.1 * torch.randn(n, 1, generator=g)
    m, ones = torch.tensor([True, False]).expand(n, 2), torch.ones(n, 2, dtype=torch.bool)
    p = torch.full((n, 2), 0.5)
    seen = Seen(a, m, torch.zeros(n, 2, 0), p)
    label = torch.nn.functional.one_hot(torch.randint(2, (n,), generator=g), 2).float()
    who = torch.arange(n)
    pairs = Pairs(seen, ones, a + b, torch.zeros(n, 2, 0), label, label >= 0, who, who < 80)

    @cache
    def share(kind):
        forecast = KINDS[kind](1, 2, 2, EXCLUSIVE)
        with steps(300):
            forecast.fit(pairs, philox_key(3))
        change = forecast.draw(seen, ones, 32, philox_key(5)) - a[:, None]
        return float((change.abs() < 1).float().mean())

    return share


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
def test_a_residual_of_two_peaks_is_no_gaussian(between, kind):
    """A Gaussian puts half of its draws in between, where nobody is."""
    assert 0.3 < between("gaussian") < 0.46  # P(|N(0, 2^2)| < 1) = .383
    assert between(kind) < between("gaussian") / 3


def test_classes_that_go_together_and_labels_that_nobody_knows():
    """Of a task without findings y is h alone; every number comes out finite."""
    pairs = world.pairs(30, seed=1)
    pairs = pairs._replace(known=torch.rand(pairs.label.shape) < 0.5, evidence=pairs.evidence[..., :0])
    pairs = pairs._replace(label=pairs.label.masked_fill(~pairs.known, torch.nan))
    forecast = FlowForecast(world.D, world.M, world.C, INDEPENDENT)
    with steps(30):
        forecast.fit(pairs, philox_key(1))
    assert forecast.draw(pairs.seen, pairs.view, 5, philox_key(2)).isfinite().all()
