"""Scores of forecasts, each against a definition of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from robustmdiff.evaluation import forecasts
from robustmdiff.evaluation.forecasts import (
    Asked,
    ask,
    difference,
    energy_score,
    score,
    share_of_top,
)
from robustmdiff.forecast.contract import Forecast


class Knowing(Forecast):
    """Knows what it is asked, and blurs it."""

    def __init__(self, truth: Asked, blur: float) -> None:
        super().__init__()
        self.truth, self.blur = truth, blur

    def fit(self, pairs, key):
        """Knows already."""

    def sample(self, seen, view, draws, key):
        y = torch.stack([self.truth.y[(self.truth.seen.y == row).all(1).nonzero()[0, 0]] for row in seen.y])
        noise = torch.randn(1, draws, y.shape[1], generator=torch.Generator().manual_seed(1))
        return y[:, None] + self.blur * noise


@pytest.fixture(scope="module")
def asked(study):
    model = study.model()
    return model, ask(model, study.patients, study.collator, seed=3)


def test_the_energy_score_is_its_definition():
    p, q = torch.rand(5, 7, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    for i in range(5):
        first = sum(math.dist(p[i, s].tolist(), q[i].tolist()) for s in range(7)) / 7
        pairs = [(s, t) for s in range(7) for t in range(7) if s != t]
        second = sum(math.dist(p[i, s].tolist(), p[i, t].tolist()) for s, t in pairs) / len(pairs)
        assert float(energy_score(p, q)[i]) == pytest.approx(first - second / 2)


def test_the_energy_score_of_a_normal_forecast_is_known():
    """E|X| - E|X - X'| / 2 = sqrt(2 / pi) - 1 / sqrt(pi) for X ~ N(0, 1) and the outcome 0."""
    draws = torch.randn(200, 64, 1, generator=torch.Generator().manual_seed(0))
    found = float(energy_score(draws, torch.zeros(200, 1)).mean())
    # the mean of 200 scores whose standard deviation is about .1
    assert found == pytest.approx(math.sqrt(2 / math.pi) - 1 / math.sqrt(math.pi), abs=0.03)


def test_who_is_asked(study, asked):
    model, found = asked
    hidden = found.view & ~found.seen.m
    assert hidden.any(1).all()
    assert not (found.seen.m & ~found.view).any()
    assert torch.equal(found.one_more.isfinite().all(-1), hidden)
    # where one modality is hidden, seeing it is seeing everything
    one = hidden.sum(1) == 1
    rows, j = hidden[one].nonzero(as_tuple=True)
    torch.testing.assert_close(found.one_more[one][rows, j], found.p[one])
    # and what is said is what the model says of the patient left with as much
    encoded = model.encode(study.collator(study.patients))
    of = {p.person: row for row, p in enumerate(study.patients)}
    rows = torch.tensor([of[person] for person in found.persons])
    kept = torch.zeros_like(encoded.m)
    kept[rows] = found.seen.m
    expected = model.probability_from(model.condense(model.observe(encoded.keep(kept))))[rows]
    torch.testing.assert_close(found.seen.p, expected, atol=1e-5, rtol=1e-5)


def test_a_forecast_that_knows_scores_best_in_everything(asked):
    model, truth = asked
    both = {"knows": Knowing(truth, 0.0).draw, "blurs": Knowing(truth, 1.0).draw}
    found = score(model, both, truth, torch.ones(truth.view.shape[1]), replicates=20)
    knows, blurs = found.scores["knows"], found.scores["blurs"]
    assert knows.energy[0] == pytest.approx(0, abs=1e-6)
    assert knows.error[0] == pytest.approx(0, abs=1e-10)
    assert knows.rho[0] == pytest.approx(1)
    assert knows.coverage[0] == 1
    assert blurs.energy[0] > 0.01
    assert difference(knows, blurs).high < 0
    assert set(knows.by_hidden) <= set(truth.hidden.tolist())
    assert sum(np.isfinite(e[0]) for e, _ in knows.by_hidden.values()) == len(set(truth.hidden.tolist()))
    assert len(knows.energy) == len(knows.tests) == 21


def test_spearman_counts_rows_as_often_as_they_were_drawn():
    a, b = np.random.default_rng(0).random((2, 30))
    assert forecasts._spearman(a, b, np.ones(30)) == pytest.approx(spearmanr(a, b).statistic)
    weight = np.random.default_rng(1).integers(0, 3, 30)
    rows = np.repeat(np.arange(30), weight)
    assert forecasts._spearman(a, b, weight) == pytest.approx(spearmanr(a[rows], b[rows]).statistic)


def test_share_of_the_change_that_the_chosen_tests_catch():
    moved = np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0, 0])
    assert share_of_top(moved, moved, np.ones(10)) == 1
    assert share_of_top(-moved, moved, np.ones(10)) == 0
    expected = np.array([0, 9, 8, 0, 0, 0, 0, 0, 0, 0.0])  # the best two of ten are .5 and .4
    assert share_of_top(expected, moved, np.ones(10)) == pytest.approx((0.4 + 0.3) / 0.9)
    twice = np.array([2, 1, 1, 1, 0, 0, 0, 0, 0, 0])  # a fifth of five is one test
    assert share_of_top(expected, moved, twice) == pytest.approx(0.4 / 0.5)
