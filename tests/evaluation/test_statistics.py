from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.evaluation import metrics, statistics
from robustmdiff.ranking import auroc


def test_row_0_is_everyone_and_groups_move_together():
    groups = ["p1", "p2", "p1", "p3", "p2", "p2", "p4"]
    weight = statistics.resamples(groups, 50, seed=3)
    assert weight.shape == (51, 7)
    assert (weight[0] == 1).all()
    assert (weight[:, 0] == weight[:, 2]).all()
    assert (weight[:, [1, 1]] == weight[:, [4, 5]]).all()
    first = [groups.index(g) for g in sorted(set(groups))]
    assert (weight[:, first].sum(1) == 4).all()  # as many patients as there are
    assert len(np.unique(weight, axis=0)) > 10


def test_same_seed_same_resamples():
    a, b, c = (statistics.resamples(list("abcdef"), 9, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize(("groups", "replicates"), [([], 3), (["a"], -1)])
def test_bad_arguments(groups, replicates):
    with pytest.raises(ValueError, match="expected"):
        statistics.resamples(groups, replicates)


def test_interval_of_a_mean_covers_it_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    covered, trials = 0, 300
    for trial in range(trials):
        x = rng.normal(2.0, 1.0, 60)
        means = metrics.mean(x, statistics.resamples([str(i) for i in range(60)], 200, seed=trial))
        estimate = statistics.interval(means)
        covered += estimate.low <= 2.0 <= estimate.high
    # percentile intervals are a little short at n = 60: .95 less three binomial errors less .015
    assert 0.95 - 0.015 - 3 * np.sqrt(0.95 * 0.05 / trials) <= covered / trials <= 0.995


def test_ignoring_groups_would_be_too_sure():
    """Ten copies of each of 20 patients tell no more than the 20 patients."""
    x = np.random.default_rng(1).normal(size=20)
    rows = np.repeat(x, 10)
    patient = [str(i // 10) for i in range(200)]
    grouped = statistics.interval(metrics.mean(rows, statistics.resamples(patient, 400)))
    once = statistics.interval(metrics.mean(x, statistics.resamples([str(i) for i in range(20)], 400)))
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.25)


def test_paired_difference_is_tighter_than_two_intervals():
    rng = np.random.default_rng(2)
    positive = rng.random(300) < 0.3
    a = positive + rng.normal(size=300)
    b = a + 0.05 * rng.normal(size=300)
    weight = statistics.resamples([str(i) for i in range(300)], 300)
    A, B = (auroc(s, positive, weight) for s in (a, b))
    paired, alone = statistics.interval(statistics.difference(A, B)), statistics.interval(A)
    assert paired.value == pytest.approx(A[0] - B[0])
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="same resamples"):
        statistics.difference(A, B[:-1])


def test_undefined_replicates_are_left_out():
    assert statistics.interval(np.array([0.5, np.nan, 0.4, 0.6])).low == pytest.approx(0.405)
    assert statistics.interval(np.array([np.nan, 0.4, 0.6])) is None
    alone = statistics.interval(np.array([0.5]))
    assert alone.value == 0.5
    assert np.isnan(alone.low)
    assert np.isnan(alone.high)


def test_over_seeds_holds_the_seeds_too():
    values = np.stack([np.full(401, v) for v in (0.1, 0.2, 0.6)])  # no spread from patients at all
    pooled = statistics.over_seeds(values)
    estimate = statistics.interval(pooled)
    assert estimate.value == pytest.approx(0.3)
    assert estimate.low < 0.2 < 0.4 < estimate.high
    np.testing.assert_array_equal(pooled, statistics.over_seeds(values))
    np.testing.assert_array_equal(statistics.over_seeds(values[:1]), values[0])
