"""How well a score ranks those who have something above those who have not. Numpy only.

`weight` is float64 [..., n], and a measure of n scores is [...]: a bootstrap resample is one more row of
weights. A measure that is not defined (nobody, or everybody, has it) is NaN.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Ranking(NamedTuple):
    """Weight of the positives and of the negatives at each distinct score, highest first: [..., G] each."""

    positive: Array
    negative: Array

    @classmethod
    def of(cls, score: Array, positive: Bools, weight: Array | None = None) -> Self:
        """score [n], positive bool [n], weight [..., n] of at least 0 (1 each, unless given).

        Raises ValueError for a score or a weight that is not finite, and for a negative weight.
        """
        weight = np.ones(len(score)) if weight is None else weight
        check_score("ranking: score", score)
        check_weight("ranking: weight", weight)
        order = np.argsort(-score, kind="stable")
        start = np.flatnonzero(np.diff(score[order], prepend=np.inf) != 0)
        at_score = weight[..., order]
        positives = at_score * positive[order]
        if len(start) < len(score):  # ties
            at_score = np.add.reduceat(at_score, start, axis=-1)
            positives = np.add.reduceat(positives, start, axis=-1)
        return cls(positives, at_score - positives)

    def auroc(self) -> Array:
        """P(score of a positive > score of a negative) + P(equal) / 2 (Hanley and McNeil 1982)."""
        p, q = self
        above = np.cumsum(p, axis=-1) - p / 2  # positives above a negative, ties count half
        return ratio((above * q).sum(-1), p.sum(-1) * q.sum(-1))

    def average_precision(self) -> Array:
        """Area under the precision-recall curve without interpolation, which would be too kind (Davis and
        Goadrich 2006): the mean over the positives of the precision at their score. A coin has the share
        of the positives."""
        p, q = self
        found, named = np.cumsum(p, axis=-1), np.cumsum(p + q, axis=-1)
        total_p, total_q = p.sum(-1), q.sum(-1)
        area = ratio((p * np.nan_to_num(ratio(found, named))).sum(-1), total_p)
        return np.where(total_q > 0, area, np.nan)

    def sensitivity(self, specificity: float = 0.95) -> Array:
        """Largest sensitivity of a rule `score >= t` whose specificity is at least `specificity`. The
        threshold is the one of these very patients: a point of their ROC curve."""
        p, q = self
        total_p, total_q = p.sum(-1), q.sum(-1)
        # 1e-12: the sum of many weights may miss an exact 5 % by rounding
        allowed = np.cumsum(q, axis=-1) <= ((1 - specificity) * total_q * (1 + 1e-12))[..., None]
        found = np.where(allowed, np.cumsum(p, axis=-1), 0.0).max(-1, initial=0.0)
        return np.where(total_q > 0, ratio(found, total_p), np.nan)


def auroc(score: Array, positive: Bools, weight: Array | None = None) -> Array:
    """`Ranking.auroc` of score [n], positive bool [n], weight [..., n] -> [...]."""
    return Ranking.of(score, positive, weight).auroc()


def macro_auroc(probability: Array, label: Bools, known: Bools) -> float:
    """AUROC of each class against the rest, the plain mean over the classes that have known patients of
    both kinds (Fawcett 2006, section 9.2, unweighted: a rare class counts as much as any); all [n, C].
    NaN if there is no such class."""
    of_class = [auroc(p[k], y[k]) for p, y, k in zip(probability.T, label.T, known.T, strict=True)]
    defined = [float(value) for value in of_class if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


def ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def check_range(
    name: str, value: Array | Bools, least: float = -np.inf, most: float = np.inf, *, expected: str
) -> None:
    """Raises ValueError for the first value that is not finite or not in [least, most]."""
    ends = np.array([value.min(initial=1), value.max(initial=0)])  # in one pass; NaN if there is one
    if np.isfinite(ends).all() and least <= ends[0] and ends[1] <= most:
        return
    wrong = ~(np.isfinite(value) & (value >= least) & (value <= most))
    place = tuple(np.argwhere(wrong)[0].tolist())
    raise ValueError(f"{name}[{', '.join(map(str, place))}] is {value[place]}, expected {expected}")


def check_score(name: str, value: Array | Bools) -> None:
    check_range(name, value, expected="a finite number")


def check_weight(name: str, value: Array) -> None:
    check_range(name, value, 0, expected="a finite number of at least 0")
