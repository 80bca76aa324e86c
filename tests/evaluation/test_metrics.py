from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from robustmdiff.evaluation import metrics
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.labels import EXCLUSIVE, INDEPENDENT


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
    precision = [average_precision_score(truth.label[:, c], p[:, c]) for c in range(5)]
    assert values["auprc/d"] == pytest.approx(precision[3], abs=1e-12)
    assert values["auprc/macro"] == pytest.approx(np.mean(precision), abs=1e-12)
    assert values["auprc/common"] == pytest.approx(np.mean(precision[:3]), abs=1e-12)
    assert values["accuracy"] == pytest.approx((p.argmax(-1) == y).mean())
    classwise = [brier_score_loss(truth.label[:, c], p[:, c]) for c in range(5)]
    assert values["brier"] == pytest.approx(np.sum(classwise), abs=1e-12)
    assert values["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-12)
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
    values, _ = metrics.measure(p, Truth(label, known), np.ones(67), tuple("xyz"), labels=INDEPENDENT)
    for c, name in enumerate("xyz"):
        k = known[:, c]
        assert values[f"auroc/{name}"] == pytest.approx(roc_auc_score(label[k, c], p[k, c]))
    assert values["brier"] == pytest.approx(((p - label) ** 2)[known].mean())
    assert values["log_loss"] == pytest.approx(log_loss(label[known], p[known]), abs=1e-12)
    assert "accuracy" not in values
    flipped = Truth(label ^ ~known, known)
    again, _ = metrics.measure(p, flipped, np.ones(67), tuple("xyz"), labels=INDEPENDENT)
    assert {k: float(v) for k, v in again.items()} == {k: float(v) for k, v in values.items()}


def test_sets_are_counted():
    label = np.eye(3, dtype=bool)[[0, 1, 2, 2]]
    sets = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    p = np.full((4, 3), 1 / 3)
    values, _ = metrics.measure(p, Truth(label, np.ones_like(label)), np.ones(4), tuple("abc"), sets=sets)
    assert values["coverage"] == 0.75
    assert values["coverage/c"] == 0.5
    assert values["set_size"] == 1.5


def test_coverage_of_rare_and_common_classes_is_pooled():
    """Of three patients with a rare class one weighs twice and is not covered; of two common ones all are."""
    label = np.eye(4, dtype=bool)[[0, 1, 2, 2, 3]]
    sets = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    p, weight = np.full((5, 4), 0.25), np.array([1.0, 1, 1, 2, 1])
    truth = Truth(label, np.ones_like(label))
    values, _ = metrics.measure(p, truth, weight, tuple("abcd"), rare=("c", "d"), sets=sets)
    assert values["coverage/rare"] == pytest.approx(2 / 4)
    assert values["coverage/common"] == 1
    assert values["coverage"] == pytest.approx(4 / 6)
    values, _ = metrics.measure(p, truth, weight, tuple("abcd"), sets=sets)
    assert "coverage/rare" not in values


def test_what_a_group_of_patients_is_told():
    """.9 and .6 are stated of one who has it and one who has not: sure by .75, right by .5."""
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    label = np.array([[1, 0], [1, 0], [0, 0]], dtype=bool)
    known = np.array([[1, 1], [1, 1], [0, 0]], dtype=bool)
    sets = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    truth = Truth(label, known)
    found = metrics.measure_calibration(p, truth, np.ones((2, 3)), EXCLUSIVE, sets)
    np.testing.assert_allclose(found["in_the_large"], [0.25, 0.25])
    np.testing.assert_allclose(found["ece"], [(0.1 + 0.6) / 2] * 2)
    np.testing.assert_allclose(found["coverage"], [0.5, 0.5])
    several = metrics.measure_calibration(p, truth, np.array([3.0, 1, 1]), INDEPENDENT)
    assert several["in_the_large"] == pytest.approx((3 * (-0.1 + 0.1) + (-0.6 + 0.6)) / 8)
    assert several["ece"] == pytest.approx((3 * (0.1 + 0.1) + (0.6 + 0.6)) / 8)
    assert several.keys() == {"ece", "in_the_large"}
    assert metrics.measure_calibration(p, Truth(label, ~known & known), np.ones(3), EXCLUSIVE, sets) == {}


def test_coverage_of_a_class_that_everybody_has():
    """There is nobody to rank it against, but its coverage is known."""
    label, sets = np.ones((4, 1), dtype=bool), np.array([[1], [1], [0], [1]], dtype=bool)
    truth = Truth(label, np.ones_like(label))
    values, skipped = metrics.measure(np.full((4, 1), 0.7), truth, np.ones(4), ("a",), (), INDEPENDENT, sets)
    assert values["coverage/a"] == 0.75
    assert skipped == ("a",)
    assert "auroc/a" not in values


def test_reliability_is_sklearns_curve():
    rng = np.random.default_rng(6)
    stated = rng.random(400) ** 2
    right = rng.random(400) < stated
    found = metrics.reliability(stated, right, np.ones(400), bins=10)
    share, mean = calibration_curve(right, stated, n_bins=10)
    np.testing.assert_allclose(found.right, share)
    np.testing.assert_allclose(found.stated, mean)
    assert found.patients.sum() == 400
    twice = metrics.reliability(np.repeat(stated, 2), np.repeat(right, 2), np.full(800, 0.5), bins=10)
    np.testing.assert_allclose(twice.right, found.right)


def test_reliability_by_hand():
    """.1 and .2 are stated of one who has it and one who has not; of nobody .5 or more but 1, rightly."""
    found = metrics.reliability(np.array([0.1, 0.2, 1.0]), np.array([True, False, True]), np.ones(3), bins=2)
    np.testing.assert_allclose(found.stated, [0.15, 1.0])
    np.testing.assert_allclose(found.right, [0.5, 1.0])
    assert found.patients.tolist() == [2, 1]
    empty = metrics.reliability(np.array([0.1]), np.array([True]), np.array([2.0]), bins=2)
    assert np.isnan(empty.right[1])


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
def test_a_number_that_is_none_gives_no_metric(bad):
    stated, right, weight = np.linspace(0, 1, 5), np.arange(5) > 2, np.ones((3, 5))
    stated[4] = bad
    with pytest.raises(ValueError, match=rf"calibration_error: stated\[4\] is {bad}, expected a number in"):
        metrics.calibration_error(stated, right, weight)
    with pytest.raises(ValueError, match=rf"mean: value\[4\] is {bad}"):
        metrics.mean(stated, np.ones(5))
    for wrong in (bad, -1.0):
        weight[2, 1] = wrong
        with pytest.raises(ValueError, match=rf"weight\[2, 1\] is {wrong}, expected a finite number of at"):
            metrics.calibration_error(np.linspace(0, 1, 5), right, weight)


def test_wrong_shape_is_refused():
    p, truth = softmax_cohort(n=12)
    with pytest.raises(ValueError, match=r"\[12, 4\], expected \[12, 5\]"):
        metrics.measure(p[:, :4], truth, np.ones(12), tuple("abcde"))


def test_retention_and_its_area():
    assert metrics.retention(np.array(0.7), np.array(0.9)) == pytest.approx(0.5)
    assert np.isnan(metrics.retention(np.array(0.7), np.array(0.5)))
    rates = np.array([0.0, 0.3, 0.9])
    assert metrics.area_under_retention(rates, np.ones((2, 3))) == pytest.approx([1.0, 1.0])
    assert metrics.area_under_retention(rates, 1 - rates) == pytest.approx(0.55)
    with pytest.raises(ValueError, match="ascending"):
        metrics.area_under_retention(rates[::-1], np.ones(3))
