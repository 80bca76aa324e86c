"""Intervals by resampling patients, the same patients for every method: the bootstrap (Efron 1979), its
percentile interval (Efron and Tibshirani 1993, ch. 13), over people rather than their records.

A resample is a row of weights, so one vectorised pass of metrics.py over `resamples(...)` gives
the estimate (row 0) and all replicates (rows 1 to R) of a metric; differences between methods,
ratios and areas are then taken row by row and stay paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robustmdiff.ranking import Array

TOO_FEW = "too few"
NO_SPREAD = "no spread"


class Interval(NamedTuple):
    """A value and its percentile bootstrap interval; its bounds are NaN where there are too few for one."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.3f} ({TOO_FEW})"
        if self.low == self.high:
            return f"{self.value:.3f} ({NO_SPREAD})"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def resamples(groups: Sequence[str], replicates: int, seed: int = 0) -> Array:
    """How often each row counts in each resample: float64 [replicates + 1, n]; row 0 is all ones.

    Whole groups (the patients, who may own several rows) are drawn with replacement, as many as
    there are. Depends on the groups' order and on seed only.
    """
    if len(groups) == 0:
        raise ValueError("resamples: groups is empty, expected one group id per row")
    if replicates < 0:
        raise ValueError(f"resamples: replicates is {replicates}, expected 0 or more")
    _, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)  # [n]
    G = int(member.max()) + 1
    generator = np.random.Generator(np.random.Philox(seed))
    count = generator.multinomial(G, np.full(G, 1 / G), size=replicates)  # [R, G]
    return np.concatenate([np.ones((1, len(member))), count[:, member].astype(np.float64)])


def interval(replicates: Array, level: float = 0.95) -> Interval | None:
    """Estimate (row 0) and percentile interval of [R + 1] values.

    Replicates in which the metric was not defined (a rare class drawn zero times) are left out;
    None if the estimate itself is not defined.
    """
    value, rest = float(replicates[0]), replicates[1:]
    if not np.isfinite(value):
        return None
    rest = np.sort(rest[np.isfinite(rest)])
    if rest.size == 0:
        return Interval(value, np.nan, np.nan)
    # np.quantile takes eight times as long for the same, and a report asks thousands of times
    at = (rest.size - 1) / 2 * np.array([1 - level, 1 + level])
    low, high = np.interp(at, np.arange(rest.size), rest)
    return Interval(value, float(low), float(high))


def difference(a: Array, b: Array) -> Array:
    """a - b on the same resamples, [R + 1] each: the paired bootstrap, which leaves out what both methods
    owe to the patients drawn."""
    if a.shape != b.shape:
        raise ValueError(
            f"difference: a is {list(a.shape)} and b {list(b.shape)}, expected the same resamples"
        )
    return a - b


def over_seeds(values: Array, seed: int = 0) -> Array:
    """Replicates of the mean over K seeds: [K, R + 1] -> [R + 1].

    Row 0 is the mean of the K estimates; in every other row K seeds are drawn with replacement
    and their values of that same resample averaged, so that the interval holds both the patients
    and the seeds. The draws depend on K, R and seed only: methods stay paired. With fewer than
    about five seeds the part that is due to seeds is known badly and somewhat too small.
    """
    K, R = values.shape[0], values.shape[1] - 1
    drawn = np.random.Generator(np.random.Philox(seed)).integers(0, K, size=(K, R))
    return np.concatenate([values[:, :1].mean(0), values[:, 1:][drawn, np.arange(R)].mean(0)])
