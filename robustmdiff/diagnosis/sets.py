"""Prediction sets: the classes that a diagnosis cannot rule out, with a promise. Numpy only.

They are calibrated on patients whom training has not seen, for each missing pattern (which
modalities are present), because a model is surer with everything than with an X-ray alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from robustmdiff.diagnosis.saved import Saved
from robustmdiff.probability import ROUNDING, check_probability
from robustmdiff.ranking import Array, Bools
from robustmdiff.refusal import Refusal

ENOUGH = 100  # calibration patients for a pattern to stand on its own


class ConformalSets(Saved):
    """Split-conformal prediction sets per missing pattern (Mondrian: Vovk et al. 2005, ch. 4.5;
    score 1 - p_y: Sadinle et al. 2019).

    One label: the set holds every class with 1 - p_c at most the quantile of its pattern, and
    always the most probable class. If calibration and new patients are exchangeable, the true
    class is in the set with probability at least 1 - alpha, for each group of patterns that has
    its own quantile; averaged over classes, so a rare class may be covered less (evaluation
    reports it).

    Multilabel: a class is in the set unless it can be ruled out; each class has quantiles of its
    own from the patients who have it. Under the same condition a patient who has class c finds it
    in the set with probability at least 1 - alpha.

    A pattern with under 100 calibration patients (multilabel: who have the class) is merged with
    the other such patterns of as many modalities; if these too are under 100 together, or a
    pattern was never seen, everyone counts, and the guarantee is then an average over everyone.
    `group(presence)` says which it is. The guarantee says nothing about patients from elsewhere.

    Arrays, or tensors on the CPU, go in; arrays come out.
    """

    def __init__(self, alpha: float, multilabel: bool, quantiles: list[dict[str, tuple[float, int]]]) -> None:
        self.alpha = alpha
        self.multilabel = multilabel
        self.quantiles = quantiles  # one entry, or one per class if multilabel

    @classmethod
    def fit(
        cls,
        probability: ArrayLike,
        label: ArrayLike,
        presence: ArrayLike,
        alpha: float = 0.1,
        *,
        known: ArrayLike | None = None,
        multilabel: bool = False,
    ) -> Self:
        """probability [n, C] and presence bool [n, M] of the calibration patients; label [n, C] 0 or
        1, counting only where known bool [n, C] (None: everywhere).

        Raises ValueError for a probability that is NaN, infinite or outside [0, 1], for a known label
        that is not 0 or 1, for a patient who has not one class (one label), and where no label is known.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"ConformalSets: alpha is {alpha}, expected a number between 0 and 1")
        p, y, present = np.asarray(probability), np.asarray(label), np.asarray(presence)
        k = np.ones(y.shape, dtype=bool) if known is None else np.asarray(known)
        if p.shape != y.shape or k.shape != y.shape or len(present) != len(y):
            raise ValueError(
                f"ConformalSets: probability is {list(p.shape)}, label {list(y.shape)}, known "
                f"{list(k.shape)}, presence {list(present.shape)}, expected [n, C] thrice and [n, M]"
            )
        check_presence("ConformalSets", present)
        check_probability("ConformalSets", p)
        _check_labels(y, k, multilabel)
        holds = (y == 1) & k
        score = 1 - p.astype(np.float64)
        patterns = [_pattern(row) for row in present]
        if multilabel:
            having = [np.flatnonzero(holds[:, c]) for c in range(y.shape[1])]
            scores = [score[rows, c] for c, rows in enumerate(having)]
        else:
            having = [np.flatnonzero(holds.sum(1) == 1)]
            scores = [score[having[0]][holds[having[0]]]]
        quantiles = [
            _by_pattern(s, [patterns[i] for i in rows], 1 - alpha)
            for s, rows in zip(scores, having, strict=True)
        ]
        return cls(alpha, multilabel, quantiles)

    def sets(self, probability: ArrayLike, presence: ArrayLike) -> Bools:
        """probability [B, C], presence bool [B, M] -> bool [B, C]. ValueError for what is no probability."""
        p, present = np.asarray(probability), np.asarray(presence)
        check_probability("ConformalSets", p)
        check_presence("ConformalSets", present)
        if self.multilabel and p.shape[1] != len(self.quantiles):
            raise ValueError(
                f"ConformalSets: probability is {list(p.shape)}, expected {len(self.quantiles)} "
                "classes, those of the calibration patients"
            )
        limit = [[g[_group(_pattern(row), g)][0] for g in self.quantiles] for row in present]
        quantile = np.array(limit, dtype=np.float64).reshape(len(present), -1)  # [B, 1] or [B, C]
        sets = 1 - p.astype(np.float64) <= quantile
        if not self.multilabel:
            sets[np.arange(len(p)), p.argmax(1)] = True
        return sets

    def group(self, presence: ArrayLike, c: int = 0) -> tuple[str, int]:
        """Which calibration patients answer for one patient's pattern, presence bool [M], and how
        many they are; of class c if multilabel."""
        groups = self.quantiles[c if self.multilabel else 0]
        name = _group(_pattern(np.asarray(presence)), groups)
        return name, groups[name][1]

    def state(self) -> dict[str, Any]:
        # JSON has no infinity; a score is at most 1, so 2 says the same
        finite = [{g: (min(q, 2.0), n) for g, (q, n) in groups.items()} for groups in self.quantiles]
        return {"alpha": self.alpha, "multilabel": self.multilabel, "quantiles": finite}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        alpha, multilabel = state["alpha"], state["multilabel"]
        quantiles = [{g: (float(q), int(n)) for g, (q, n) in groups.items()} for groups in state["quantiles"]]
        if not 0 < alpha < 1 or not isinstance(multilabel, bool):
            raise ValueError(f"alpha is {alpha} and multilabel {multilabel}")
        if not quantiles or (len(quantiles) > 1 and not multilabel):
            raise ValueError(f"there are {len(quantiles)} groups of quantiles")
        for groups in quantiles:
            for name, (quantile, n) in groups.items():
                if not -ROUNDING <= quantile <= 2 or n < 0:
                    raise ValueError(f"the quantile of {name!r} is {quantile}, of {n} patients")
            if "all" not in groups:
                raise ValueError("the quantile of all patients is not there")
        return cls(alpha, multilabel, quantiles)


def check_presence(what: str, presence: Bools) -> None:
    """Raises ValueError for what is not bool [n, M]."""
    if presence.dtype != np.bool_ or presence.ndim != 2:
        raise ValueError(f"{what}: presence is {presence.dtype} {list(presence.shape)}, expected bool [n, M]")


def conformal_quantile(score: Array, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores; infinite where n is too small for it."""
    k = math.ceil((len(score) + 1) * level)
    return float(np.sort(score)[k - 1]) if k <= len(score) else math.inf


def _check_labels(label: np.ndarray, known: Bools, multilabel: bool) -> None:
    wrong = known & (label != 0) & (label != 1)
    if wrong.any():
        row, c = np.argwhere(wrong)[0]
        raise ValueError(
            f"ConformalSets: label[{row}, {c}] is {float(label[row, c])}, expected 0 or 1, or not known"
        )
    holds = (label == 1) & known
    if not multilabel:
        several = (holds.sum(1) > 1) | (known.all(1) & (holds.sum(1) == 0))
        if several.any():
            row = int(np.flatnonzero(several)[0])
            raise ValueError(
                f"ConformalSets: label[{row}] names {int(holds[row].sum())} classes, expected one "
                "(or multilabel=True)"
            )
    if not holds.any():
        raise Refusal(
            f"ConformalSets: no class is known to hold for any of {len(label)} calibration patients, "
            "expected at least one such patient"
        )


def _pattern(present: Bools) -> str:
    return "".join("1" if p else "0" for p in present)


def _by_pattern(score: Array, patterns: Sequence[str], level: float) -> dict[str, tuple[float, int]]:
    """Group name to (quantile, number of patients): each pattern with ENOUGH patients ("101"), the
    others together by how many modalities they have ("2 present"), and everyone ("all")."""
    groups: dict[str, list[int]] = {}
    for i, pattern in enumerate(patterns):
        groups.setdefault(pattern, []).append(i)
    alone = {pattern: rows for pattern, rows in groups.items() if len(rows) >= ENOUGH}
    merged: dict[str, list[int]] = {}
    for pattern, rows in groups.items():
        if pattern not in alone:
            merged.setdefault(f"{pattern.count('1')} present", []).extend(rows)
    kept = alone | {name: rows for name, rows in merged.items() if len(rows) >= ENOUGH}
    kept["all"] = list(range(len(patterns)))
    return {name: (conformal_quantile(score[rows], level), len(rows)) for name, rows in kept.items()}


def _group(pattern: str, groups: Mapping[str, Any]) -> str:
    """Where a pattern's quantile comes from: its own, that of its size, or that of all."""
    return next(g for g in (pattern, f"{pattern.count('1')} present", "all") if g in groups)
