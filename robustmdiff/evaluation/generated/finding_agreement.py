"""Findings that generated reports state, against those that are so.

said, true  bool [n, F]: of n patients and F findings. A measure takes weights [..., n], as in metrics.py.
"""

from __future__ import annotations

import numpy as np

from robustmdiff.ranking import Array, Bools, check_range, check_weight, ratio


def micro_f1(said: Bools, true: Bools, weight: Array) -> Array:
    """F1 over all cells of the table, weight [..., n] -> [...]: twice the hits over what is said plus what is
    so. NaN where nothing is said and nothing is so."""
    _check("micro_f1", said, true)
    check_weight("micro_f1: weight", weight)
    hits, either = (said & true).sum(1), said.sum(1) + true.sum(1)
    return ratio(2 * (weight @ hits.astype(np.float64)), weight @ either.astype(np.float64))


def f1_of_findings(said: Bools, true: Bools, weight: Array) -> Array:
    """F1 of each finding, weight [..., n] -> [..., F]; NaN for one that nobody has and nobody is said to."""
    _check("f1_of_findings", said, true)
    check_weight("f1_of_findings: weight", weight)
    hits, either = (said & true).astype(np.float64), said.astype(np.float64) + true
    return ratio(2 * (weight @ hits), weight @ either)


def share_of_samples(said: Bools) -> Array:
    """Of N reports sampled for each patient, bool [N, n, F], the share that state a finding: [n, F]."""
    if said.ndim != 3 or said.dtype != bool or 0 in said.shape:
        raise ValueError(
            f"share_of_samples: said is {said.dtype} {list(said.shape)}, expected bool [N, n, F]"
        )
    return said.mean(0)


def vote(share: Array, thresholds: Array) -> Bools:
    """The findings stated by at least this share of samples, or of probability: share [n, F], thresholds [F]
    -> bool [n, F]."""
    check_range("vote: share", share, 0, 1, expected="a share in [0, 1]")
    if thresholds.shape != share.shape[1:] or np.isnan(thresholds).any():
        raise ValueError(
            f"vote: thresholds are {list(thresholds.shape)}, expected {list(share.shape[1:])} numbers"
        )
    return share >= thresholds


def f1_thresholds(share: Array, true: Bools) -> Array:
    """For each finding the threshold at which `vote` has the best F1, [F]: choose it on patients who trained,
    never on those who are tested. Infinite where nobody has the finding: it is never stated.

    share [n, F] in [0, 1], true [n, F].
    """
    check_range("f1_thresholds: share", share, 0, 1, expected="a share in [0, 1]")
    if true.shape != share.shape or len(true) == 0:
        raise ValueError(
            f"f1_thresholds: true is {list(true.shape)}, expected {list(share.shape)} like share"
        )
    return np.array([_best_threshold(s, y) for s, y in zip(share.T, true.T, strict=True)])


def _best_threshold(share: Array, true: Bools) -> float:
    """Half way to the next lower share, so that a new patient's rounding does not decide."""
    if not true.any():
        return np.inf
    order = np.argsort(-share, kind="stable")
    s, hits = share[order], np.cumsum(true[order])
    last = np.flatnonzero(np.diff(s, append=-1) != 0)  # of each distinct share
    f1 = 2 * hits[last] / (last + 1 + true.sum())
    best = int(f1.argmax())
    lower = s[last[best] + 1] if last[best] + 1 < len(s) else 0.0
    return float((s[last[best]] + lower) / 2)


def _check(name: str, said: Bools, true: Bools) -> None:
    if said.dtype != bool or true.dtype != bool:
        raise ValueError(f"{name}: said is {said.dtype} and true {true.dtype}, expected bool")
    if said.ndim != 2 or said.shape != true.shape or 0 in said.shape:
        raise ValueError(
            f"{name}: said is {list(said.shape)} and true {list(true.shape)}, expected [n, F] of both"
        )
