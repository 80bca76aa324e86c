"""Findings said against findings that are so, and the vote of several reports."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from robustmdiff.evaluation.generated.finding_agreement import (
    f1_of_findings,
    f1_thresholds,
    micro_f1,
    share_of_samples,
    vote,
)
from robustmdiff.evaluation.statistics import resamples


def table(seed: int, n: int = 23, findings: int = 5, share: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).random((n, findings)) < share


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_that_of_sklearn_resampled_or_not(seed):
    said, true = table(seed), table(seed + 50)
    weight = resamples(list(map(str, range(23))), 6)
    found, each = micro_f1(said, true, weight), f1_of_findings(said, true, weight)
    for w, f1, of in zip(weight.astype(int), found, each, strict=True):
        a, b = said.repeat(w, axis=0), true.repeat(w, axis=0)
        assert f1 == pytest.approx(f1_score(b, a, average="micro"))
        assert of == pytest.approx(f1_score(b, a, average=None, zero_division=np.nan), nan_ok=True)


def test_a_finding_that_nobody_has_and_nobody_is_said_to_has_no_f1():
    said, true = np.array([[True, False]]), np.array([[False, False]])
    assert f1_of_findings(said, true, np.ones(1)).tolist() == pytest.approx([0, np.nan], nan_ok=True)
    assert np.isnan(micro_f1(true, true, np.ones(1)))


def test_a_vote_states_what_enough_samples_say():
    said = np.array([[[1, 0]], [[1, 0]], [[0, 1]], [[1, 0]]], dtype=bool)
    share = share_of_samples(said)
    assert share.tolist() == [[0.75, 0.25]]
    assert vote(share, np.array([0.75, 0.3])).tolist() == [[True, False]]
    assert vote(share, np.array([0.8, 0.2])).tolist() == [[False, True]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_threshold_is_as_good_as_any_other(seed, samples):
    rng = np.random.default_rng(seed)
    share, true = rng.integers(0, samples + 1, (17, 3)) / samples, table(seed, 17, 3)
    thresholds = f1_thresholds(share, true)
    found = f1_of_findings(vote(share, thresholds), true, np.ones(17))
    rivals = [
        f1_of_findings(vote(share, np.full(3, t)), true, np.ones(17))
        for t in np.arange(samples + 1) / samples
    ]
    some = true.any(0)
    assert found[some] == pytest.approx(np.max(rivals, axis=0)[some])
    assert (thresholds[~some] == np.inf).all()


def test_what_does_not_fit_is_refused():
    said, one = table(0), np.ones(23)
    with pytest.raises(ValueError, match=r"said is \[23, 5\] and true \[23, 4\]"):
        micro_f1(said, said[:, 1:], one)
    with pytest.raises(ValueError, match="said is float64 and true bool, expected bool"):
        f1_of_findings(said.astype(float), said, one)
    with pytest.raises(ValueError, match=r"vote: share\[0, 1\] is nan, expected a share in \[0, 1\]"):
        vote(np.array([[0.5, np.nan]]), np.zeros(2))
    with pytest.raises(ValueError, match=r"thresholds are \[3\], expected \[2\] numbers"):
        vote(np.full((4, 2), 0.5), np.zeros(3))
    with pytest.raises(ValueError, match=r"true is \[23, 5\], expected \[23, 4\] like share"):
        f1_thresholds(np.zeros((23, 4)), said)
    with pytest.raises(ValueError, match=r"said is bool \[23, 5\], expected bool \[N, n, F\]"):
        share_of_samples(said)
