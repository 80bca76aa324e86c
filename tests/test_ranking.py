"""Numbers that rank: against their definitions, and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from robustmdiff.evaluation.metrics import calibration_error
from robustmdiff.ranking import Ranking, auroc, macro_auroc


def average_precision(score, positive, weight):
    return Ranking.of(score, positive, weight).average_precision()


def sensitivity(score, positive, weight):
    return Ranking.of(score, positive, weight).sensitivity()


METRICS = (auroc, average_precision, sensitivity, calibration_error)


def auroc_by_pairs(score, positive, weight):
    """The definition: every positive against every negative."""
    total = won = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            w = weight[i] * weight[j]
            total += w
            won += w * (float(score[i] > score[j]) + 0.5 * float(score[i] == score[j]))
    return won / total


@st.composite
def scored(draw):
    n = draw(st.integers(2, 23))
    score = np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))) / 9  # many ties
    positive = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    positive[:2] = [True, False]
    weight = np.array(draw(st.lists(st.floats(0.1, 5), min_size=n, max_size=n)))
    return score, positive, weight


@given(scored())
@settings(max_examples=80, deadline=None)
def test_auroc_is_the_definition_and_sklearns(case):
    score, positive, weight = case
    got = auroc(score, positive, weight)
    assert got == pytest.approx(auroc_by_pairs(score, positive, weight), abs=1e-12)
    assert got == pytest.approx(roc_auc_score(positive, score, sample_weight=weight), abs=1e-12)


@given(scored(), st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=80, deadline=None)
def test_sensitivity_at_specificity_is_the_best_point_of_sklearns_curve(case, specificity):
    score, positive, weight = case
    fpr, tpr, _ = roc_curve(positive, score, sample_weight=weight, drop_intermediate=False)
    expected = tpr[fpr <= (1 - specificity) * (1 + 1e-9)].max()
    got = Ranking.of(score, positive, weight).sensitivity(specificity)
    assert got == pytest.approx(expected, abs=1e-9)


def test_sensitivity_by_hand():
    score = np.array([0.9, 0.8, 0.7, 0.6, *np.linspace(0, 0.5, 19), 0.75])
    positive = np.array([True] * 4 + [False] * 20)
    # 20 negatives: one may be called positive, the one at .75; so all four positives are found
    assert Ranking.of(score, positive).sensitivity() == 1.0
    score[4] = 0.85  # a second negative stands above .7 and .6: only the first two are found
    assert Ranking.of(score, positive).sensitivity() == 0.5


def test_rows_of_weights_give_the_rows_one_by_one():
    rng = np.random.default_rng(3)
    score, positive = rng.integers(0, 7, 41) / 7, rng.random(41) < 0.3
    weight = rng.integers(0, 4, (5, 41)).astype(float)
    for metric in METRICS:
        together = metric(score, positive, weight)
        assert together.shape == (5,)
        np.testing.assert_allclose(together, [metric(score, positive, w) for w in weight], atol=1e-13)


def test_an_integer_weight_is_a_repeated_patient():
    rng = np.random.default_rng(4)
    score, positive = rng.integers(0, 9, 37) / 9, rng.random(37) < 0.4
    times = rng.integers(0, 5, 37)
    for metric in METRICS:
        repeated = metric(np.repeat(score, times), np.repeat(positive, times), np.ones(times.sum()))
        assert metric(score, positive, times.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_one_value_only_is_undefined():
    assert np.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True])))
    for label in (True, False):
        only = Ranking.of(np.array([0.1, 0.3]), np.full(2, label))
        assert np.isnan([only.auroc(), only.average_precision(), only.sensitivity()]).all()


@given(scored())
@settings(max_examples=80, deadline=None)
def test_average_precision_is_sklearns(case):
    score, positive, weight = case
    expected = average_precision_score(positive, score, sample_weight=weight)
    assert average_precision(score, positive, weight) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand():
    """Positives at ranks 1, 3 and 4 of 5: (1/1 + 2/3 + 3/4) / 3."""
    found = Ranking.of(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, True, False]))
    assert found.average_precision() == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=1e-12)
    everyone_alike = Ranking.of(np.full(10, 0.5), np.arange(10) < 3)
    assert everyone_alike.average_precision() == pytest.approx(0.3, abs=1e-12)  # the share of the positives


def test_macro_auroc_leaves_out_what_is_not_known_and_classes_without_both_kinds():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1, 1], 57).round(1)  # ties
    label, known = np.eye(4, dtype=bool)[rng.integers(0, 3, 57)], np.ones((57, 4), dtype=bool)
    known[:5] = False
    expected = np.mean([roc_auc_score(label[5:, c], p[5:, c]) for c in range(3)])
    assert macro_auroc(p, label, known) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(macro_auroc(p, label, np.zeros_like(known)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_ranks_nothing(bad):
    score, positive, weight = np.linspace(0, 1, 5), np.arange(5) > 2, np.ones((3, 5))
    weight[2, 1] = bad
    with pytest.raises(ValueError, match=rf"weight\[2, 1\] is {bad}, expected a finite number of at least 0"):
        auroc(score, positive, weight)
    weight[2, 1] = -1
    with pytest.raises(ValueError, match=r"weight\[2, 1\] is -1.0, expected a finite number of at least 0"):
        auroc(score, positive, weight)
    score[4] = bad
    with pytest.raises(ValueError, match=rf"score\[4\] is {bad}, expected a finite number"):
        auroc(score, positive)
