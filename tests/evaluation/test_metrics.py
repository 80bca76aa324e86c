from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from robustmdiff.evaluation import metrics
from robustmdiff.evaluation.metrics import Truth


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
    got = metrics.auroc(score, positive, weight)
    assert got == pytest.approx(auroc_by_pairs(score, positive, weight), abs=1e-12)
    assert got == pytest.approx(roc_auc_score(positive, score, sample_weight=weight), abs=1e-12)


@given(scored(), st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=80, deadline=None)
def test_sensitivity_at_specificity_is_the_best_point_of_sklearns_curve(case, specificity):
    score, positive, weight = case
    fpr, tpr, _ = roc_curve(positive, score, sample_weight=weight, drop_intermediate=False)
    expected = tpr[fpr <= (1 - specificity) * (1 + 1e-9)].max()
    got = metrics.sensitivity_at_specificity(score, positive, weight, specificity)
    assert got == pytest.approx(expected, abs=1e-9)


def test_sensitivity_by_hand():
    score = np.array([0.9, 0.8, 0.7, 0.6, *np.linspace(0, 0.5, 19), 0.75])
    positive = np.array([True] * 4 + [False] * 20)
    # 20 negatives: one may be called positive, the one at .75; so all four positives are found
    assert metrics.sensitivity_at_specificity(score, positive, np.ones(24)) == 1.0
    score[4] = 0.85  # a second negative stands above .7 and .6: only the first two are found
    assert metrics.sensitivity_at_specificity(score, positive, np.ones(24)) == 0.5


def test_rows_of_weights_give_the_rows_one_by_one():
    rng = np.random.default_rng(3)
    score, positive = rng.integers(0, 7, 41) / 7, rng.random(41) < 0.3
    weight = rng.integers(0, 4, (5, 41)).astype(float)
    for metric in (metrics.auroc, metrics.sensitivity_at_specificity, metrics.calibration_error):
        together = metric(score, positive, weight)
        assert together.shape == (5,)
        np.testing.assert_allclose(together, [metric(score, positive, w) for w in weight], atol=1e-13)


def test_an_integer_weight_is_a_repeated_patient():
    rng = np.random.default_rng(4)
    score, positive = rng.integers(0, 9, 37) / 9, rng.random(37) < 0.4
    times = rng.integers(0, 5, 37)
    for metric in (metrics.auroc, metrics.sensitivity_at_specificity, metrics.calibration_error):
        repeated = metric(np.repeat(score, times), np.repeat(positive, times), np.ones(times.sum()))
        assert metric(score, positive, times.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_one_value_only_is_undefined():
    assert np.isnan(metrics.auroc(np.array([0.1, 0.2]), np.array([True, True]), np.ones(2)))
    assert np.isnan(metrics.sensitivity_at_specificity(np.array([0.1]), np.array([False]), np.ones(1)))


def softmax_cohort(n=211, C=5, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, C)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    label = np.eye(C, dtype=bool)[[rng.choice(C, p=row) for row in p]]
    return p, Truth(label, np.ones_like(label))


def test_table_cell_against_sklearn_and_torchmetrics():
    import torch

    p, truth = softmax_cohort()
    y = truth.label.argmax(-1)
    values, skipped = metrics.measure(p, truth, np.ones(len(p)), tuple("abcde"), rare=("d", "e"))
    assert skipped == ()
    assert values["auroc/macro"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-12)
    assert values["auroc/rare"] == pytest.approx(
        np.mean([roc_auc_score(truth.label[:, c], p[:, c]) for c in (3, 4)]), abs=1e-12
    )
    assert values["accuracy"] == pytest.approx((p.argmax(-1) == y).mean())
    classwise = [brier_score_loss(truth.label[:, c], p[:, c]) for c in range(5)]
    assert values["brier"] == pytest.approx(np.sum(classwise), abs=1e-12)
    theirs = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(y), 5, n_bins=15)
    assert values["ece"] == pytest.approx(float(theirs), abs=1e-6)


def test_pooled_sensitivity_counts_patients_not_classes():
    p, truth = softmax_cohort(seed=1)
    values, _ = metrics.measure(p, truth, np.ones(len(p)), tuple("abcde"), rare=("d", "e"))
    positives = truth.label.sum(0)
    found = sum(values[f"sensitivity95/{name}"] * positives[c] for c, name in ((3, "d"), (4, "e")))
    assert values["sensitivity95/rare"] == pytest.approx(found / positives[3:].sum())


def test_weights_undo_enrichment():
    """Class e thrice over and weighted by a third is the population it came from."""
    p, truth = softmax_cohort(seed=2)
    times = np.where(truth.label[:, 4], 3, 1)
    enriched = Truth(np.repeat(truth.label, times, 0), np.repeat(truth.known, times, 0))
    a, _ = metrics.measure(p, truth, np.ones(len(p)), tuple("abcde"), rare=("e",))
    b, _ = metrics.measure(
        np.repeat(p, times, 0), enriched, 1.0 / np.repeat(times, times), tuple("abcde"), rare=("e",)
    )
    assert a.keys() == b.keys()
    for name in a:
        assert b[name] == pytest.approx(float(a[name]), abs=1e-12), name


def test_a_class_nobody_has_is_skipped_and_named():
    p, truth = softmax_cohort()
    label = np.pad(truth.label, ((0, 0), (0, 1)))
    values, skipped = metrics.measure(
        np.pad(p, ((0, 0), (0, 1))), Truth(label, np.ones_like(label)), np.ones((3, len(p))), tuple("abcdef")
    )
    assert skipped == ("f",)
    assert not any(name.endswith("/f") for name in values)
    assert all(np.isfinite(value).all() for value in values.values())


def test_unknown_cells_do_not_count():
    rng = np.random.default_rng(8)
    p, label = rng.random((67, 3)), rng.random((67, 3)) < 0.4
    known = rng.random((67, 3)) < 0.7
    values, _ = metrics.measure(p, Truth(label, known), np.ones(67), tuple("xyz"), multilabel=True)
    for c, name in enumerate("xyz"):
        k = known[:, c]
        assert values[f"auroc/{name}"] == pytest.approx(roc_auc_score(label[k, c], p[k, c]))
    assert values["brier"] == pytest.approx(((p - label) ** 2)[known].mean())
    assert "accuracy" not in values
    flipped = Truth(label ^ ~known, known)
    again, _ = metrics.measure(p, flipped, np.ones(67), tuple("xyz"), multilabel=True)
    assert {k: float(v) for k, v in again.items()} == {k: float(v) for k, v in values.items()}


def test_sets_are_counted():
    label = np.eye(3, dtype=bool)[[0, 1, 2, 2]]
    sets = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    p = np.full((4, 3), 1 / 3)
    values, _ = metrics.measure(p, Truth(label, np.ones_like(label)), np.ones(4), tuple("abc"), sets=sets)
    assert values["coverage"] == 0.75
    assert values["coverage/c"] == 0.5
    assert values["set_size"] == 1.5


BAD = [np.nan, np.inf, -np.inf, -0.1, 1.1]


@pytest.mark.parametrize("bad", BAD)
def test_a_probability_that_is_none_is_refused(bad):
    p, truth = softmax_cohort(n=12)
    p[3, 1] = bad
    expected = f"the probability of class 1 is {bad} for row 3, expected a number in [0, 1]"
    with pytest.raises(ValueError, match=re.escape(expected)):
        metrics.measure(p, truth, np.ones(12), tuple("abcde"))


def test_rounding_may_pass_1():
    p, truth = softmax_cohort(n=12)
    p[3] = np.eye(5)[1] * np.float32(1.0000002)
    values, _ = metrics.measure(p, truth, np.ones(12), tuple("abcde"))
    p[3] = np.eye(5)[1]
    same, _ = metrics.measure(p, truth, np.ones(12), tuple("abcde"))
    assert values == same


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (metrics.auroc, "score"),
        (metrics.sensitivity_at_specificity, "score"),
        (metrics.calibration_error, "confidence"),
    ],
)
def test_a_number_that_is_none_gives_no_metric(metric, name, bad):
    score, positive, weight = np.linspace(0, 1, 5), np.arange(5) > 2, np.ones((3, 5))
    assert np.isfinite(metric(score, positive, weight)).all()
    score[4] = bad
    with pytest.raises(ValueError, match=rf"{metric.__name__}: {name}\[4\] is {bad}, expected a"):
        metric(score, positive, weight)
    for wrong in (bad, -1.0):
        weight[2, 1] = wrong
        with pytest.raises(
            ValueError, match=rf"weight\[2, 1\] is {wrong}, expected a finite number of at least"
        ):
            metric(np.linspace(0, 1, 5), positive, weight)
    with pytest.raises(ValueError, match=rf"mean: value\[4\] is {bad}"):
        metrics.mean(score, np.ones(5))


def test_wrong_shape_is_refused():
    p, truth = softmax_cohort(n=12)
    with pytest.raises(ValueError, match=r"\[12, 4\], expected \[12, 5\]"):
        metrics.measure(p[:, :4], truth, np.ones(12), tuple("abcde"))


def test_retention_and_its_area():
    assert metrics.retention(np.array(0.7), np.array(0.9)) == pytest.approx(0.5)
    assert np.isnan(metrics.retention(np.array(0.7), np.array(0.5)))
    assert metrics.share_of_ceiling(np.array(0.8), np.array(1.0)) == pytest.approx(0.6)
    rates = np.array([0.0, 0.3, 0.9])
    assert metrics.area_under_retention(rates, np.ones((2, 3))) == pytest.approx([1.0, 1.0])
    assert metrics.area_under_retention(rates, 1 - rates) == pytest.approx(0.55)
    with pytest.raises(ValueError, match="ascending"):
        metrics.area_under_retention(rates[::-1], np.ones(3))
