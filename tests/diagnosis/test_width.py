"""Intervals of draws, and the spread that makes them hold."""

from __future__ import annotations

import math

import pytest
import torch

from robustmdiff.diagnosis.width import PEOPLE, SHOWN, SPREAD, fitted_spread, held, interval_of


@pytest.mark.parametrize(("draws", "expected"), [(16, 15 / 17), (19, 0.9), (64, 0.9)])
def test_intervals_hold_what_they_promise_however_few_the_draws(draws, expected):
    """With 16 draws no interval between two of them holds more than 15 in 17."""
    x = torch.randn(20_000, draws + 1, 1, generator=torch.Generator().manual_seed(draws), dtype=torch.float64)
    low, high = interval_of(x[:, 1:])
    found = float(((x[:, 0] >= low) & (x[:, 0] <= high)).double().mean())
    assert found == pytest.approx(expected, abs=0.01)  # 4.7 standard errors
    if draws == 16:  # what plain quantiles would hold
        low, high = torch.quantile(x[:, 1:], torch.tensor([0.05, 0.95], dtype=torch.float64), dim=1)
        assert float(((x[:, 0] >= low) & (x[:, 0] <= high)).double().mean()) < 0.82


def test_classes_that_nobody_asks_for_are_not_counted():
    p = torch.tensor([[[0.1, 0.9, 0.5]], [[0.3, 0.7, 0.5]]]).expand(2, 20, 3)
    became, before = p[:, 0].clone(), torch.tensor([[0.5, SHOWN, 0.6], [0.0, 0.4, 0.6]])
    became[1, 2] = 0.6
    holds, counted = held(p, became, before)
    assert counted.tolist() == [[True, False, True], [False, True, True]]
    assert holds.tolist() == [[True, False, True], [False, True, False]]


@pytest.fixture(scope="module")
def twice_as_far():
    """Posteriors that move twice as far as the draws with a spread of 1: as `fitted_spread` takes them."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 65, 2, generator=generator, dtype=torch.float64)
    return lambda spread: 0.5 + 0.01 * spread * z[:, 1:], 0.5 + 0.02 * z[:, 0], torch.full((4000, 2), 0.5)


def test_the_spread_is_the_one_with_which_intervals_hold(twice_as_far):
    spread = fitted_spread(*twice_as_far, people=10**9)
    assert spread == pytest.approx(2, rel=0.03)  # .01 of the intervals, 2.4 standard errors, move it by .03
    holds, counted = held(twice_as_far[0](spread), *twice_as_far[1:])
    assert float(holds.sum() / counted.sum()) == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("people", [0, PEOPLE, 3 * PEOPLE])
def test_few_people_outweigh_little(twice_as_far, people):
    alone = fitted_spread(*twice_as_far, people=10**9)
    share = people / (people + PEOPLE)
    expected = math.exp(share * math.log(alone) + (1 - share) * math.log(SPREAD))
    assert fitted_spread(*twice_as_far, people=people) == pytest.approx(expected)
