"""Prediction sets: the classes that a diagnosis cannot rule out, with a promise. Numpy only.

They are calibrated on patients whom training has not seen: for each class, or for the rare and the common
ones together where few people have it, because an average over all leaves out the rare; and for each number
of modalities present, because a model is surer with everything than with an X-ray alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmdiff.diagnosis.saved import Saved
from robustmdiff.labels import EXCLUSIVE, Labels, labels_of
from robustmdiff.probability import ROUNDING, check_probability
from robustmdiff.ranking import Array, Bools, check_weight
from robustmdiff.refusal import Refusal

ENOUGH = {"class": 50, "rare": 30, "common": 30, "all": 30}  # people who answer for what they have in common
HAVING = {"class": "this class", "rare": "a rare class", "common": "a common class", "all": "any class"}


class Cell(NamedTuple):
    """A quantile, and the people that it is of, by what they have: "class", "rare", "common" or "all"."""

    quantile: float
    people: int
    of: str


class ConformalSets(Saved):
    """Label-conditional split-conformal sets (Mondrian: Vovk, Gammerman and Shafer 2005, ch. 4.5; Vovk 2012;
    score 1 - p_y: Sadinle, Lei and Wasserman 2019).

    A class is in the set if 1 - p_c is at most the quantile of those who answer for it. These are the first
    of the following who are enough:

        50 people who have the class, with as many modalities present
        30 people who have one of the rare classes, if it is rare, or one of the common ones, with as many
           present; without the classes that answer for themselves, whose ease would be at the others' cost
        the same two, with any modalities
        30 people with as many present
        everyone

    With one label the most probable class is always in the set too. With several, a class is in the set
    unless it can be ruled out.

    *Promise.* Let calibration people and new ones be exchangeable, and let the k modalities that are present
    be any k of a person's alike. Then P(y in set | y's group, k) >= 1 - alpha for every group of classes and
    k that answer for themselves; it is an average over the classes of the group, and where k has too few
    people over every k. It says nothing about patients from elsewhere.

    *Few people.* A quantile is finite for n >= 1 / alpha - 1 people (9 at alpha = .1); with fewer the group's
    classes are in every set. The promise is an average over calibration samples: with one view of each
    person, the coverage that a sample gives is Beta(n + 1 - l, l), l = floor((n + 1) alpha), whose standard
    deviation is .04 for 50 people and .05 for 30 (Vovk 2012).

    *One person, many views.* A calibration patient is asked about under many subsets, and scores of one
    person depend on each other. So it is people who are exchangeable, not views: each counts once in a cell,
    spread evenly over the views there, and n counts people (hierarchical conformal prediction: Lee, Barber
    and Willett 2023). One random view of each keeps the same promise; its coverage varies a little more.

    *Enriched samples.* `weight` leads back to the population (weighted conformal: Tibshirani et al. 2019; as
    weights follow the class: Podkopaev and Ramdas 2021). Where all people of a cell weigh the same, as those
    of one class do, weights change nothing. A new person weighs as much as the heaviest of the cell, which
    keeps the promise for every class in it.

    Arrays, or tensors on the CPU, go in; arrays come out.
    """

    def __init__(self, alpha: float, labels: Labels, quantiles: list[dict[str, Cell]]) -> None:
        """quantiles: for each class, or one for all of them, by what is present: "3 present", a pattern such
        as "101" (of earlier versions), and "all", which is for what is not named."""
        self.alpha = alpha
        self.labels = labels
        self.quantiles = quantiles

    @classmethod
    def fit(
        cls,
        probability: ArrayLike,
        label: ArrayLike,
        presence: ArrayLike,
        alpha: float = 0.1,
        *,
        known: ArrayLike | None = None,
        labels: Labels = EXCLUSIVE,
        rare: ArrayLike | None = None,
        person: ArrayLike | None = None,
        weight: ArrayLike | None = None,
    ) -> Self:
        """probability [n, C] and presence bool [n, M] of n views of calibration patients; label [n, C] 0 or
        1, counting only where known bool [n, C] (None: everywhere).

        labels  whether one of the classes holds or each is its own yes or no.
        rare    bool [C], which classes are rare; None: no class is.
        person  [n], whose view each row is; None: each is a person of its own.
        weight  [n], how much each row's person counts in the population; None: all the same.

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
        _check_labels(y, k, labels)
        n, C = y.shape
        is_rare = np.zeros(C, dtype=bool) if rare is None else np.asarray(rare, dtype=bool)
        whose = np.arange(n) if person is None else np.unique(np.asarray(person), return_inverse=True)[1]
        w = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
        if is_rare.shape != (C,) or len(whose) != n or w.shape != (n,):
            raise ValueError(
                f"ConformalSets: rare is {list(is_rare.shape)}, person [{len(whose)}], weight "
                f"{list(w.shape)}, expected [{C}], [{n}] and [{n}]"
            )
        check_weight("ConformalSets: weight", w)
        row, c = np.nonzero((y == 1) & k)
        scored = _Scored(1 - p[row, c].astype(np.float64), c, present.sum(1)[row], whose[row], w[row])
        return cls(alpha, labels, _calibrated(scored, is_rare, present.shape[1], 1 - alpha))

    def sets(self, probability: ArrayLike, presence: ArrayLike) -> Bools:
        """probability [B, C], presence bool [B, M] -> bool [B, C]. ValueError for what is no probability."""
        p, present = np.asarray(probability), np.asarray(presence)
        check_probability("ConformalSets", p)
        check_presence("ConformalSets", present)
        if p.shape[1] != len(self.quantiles) and not self._averages:
            raise ValueError(
                f"ConformalSets: probability is {list(p.shape)}, expected {len(self.quantiles)} "
                "classes, those of the calibration patients"
            )
        patterns, which = np.unique(present, axis=0, return_inverse=True)
        limit = [[cells[_name(row, cells)].quantile for cells in self.quantiles] for row in patterns]
        quantile = np.array(limit).reshape(len(patterns), len(self.quantiles))[which.reshape(-1)]
        # With rounding, as a patient with nothing ties
        return self.labels.prediction_sets(p.astype(np.float64), quantile + ROUNDING)

    def by_size(self, M: int, C: int) -> Array:
        """How large 1 - p_c may be, [M + 1, C], by how many of M modalities are present. Raises Refusal for
        sets of an earlier version, which go by which they are."""
        names = [f"{k} present" for k in range(M + 1)]
        if other := set().union(*self.quantiles) - {*names, "all"}:
            raise Refusal(f"ConformalSets: quantiles are of {min(other)!r}, expected '1 present'; train anew")
        each = self.quantiles * C if self._averages else self.quantiles
        quantiles = [[cells.get(name, cells["all"]).quantile for cells in each] for name in names]
        return np.array(quantiles) + ROUNDING

    def group(self, presence: ArrayLike, c: int = 0) -> tuple[str, int]:
        """Which calibration patients answer for class c of a patient with these modalities, presence bool
        [M] ("with a rare class and 3 modalities"), and how many people they are."""
        cells = self.quantiles[min(c, len(self.quantiles) - 1)]
        name = _name(np.asarray(presence), cells)
        if name == "all":
            modalities = "any modalities"
        elif " " in name:
            modalities = f"{name.split()[0]} modalit{'y' if name == '1 present' else 'ies'}"
        else:
            modalities = "the same modalities"
        return f"with {HAVING[cells[name].of]} and {modalities}", cells[name].people

    @property
    def kept_for(self) -> str:
        """Whom the promise is kept for, in words."""
        return "averaged over the classes" if self._averages else "for each class, or the rare or common ones"

    @property
    def _averages(self) -> bool:
        """Whether one quantile serves all classes, as in the sets of earlier versions."""
        return len(self.quantiles) == 1 and self.labels.exclusive

    def state(self) -> dict[str, Any]:
        # JSON has no infinity; a score is at most 1, so 2 says the same
        finite = [
            {name: (min(q, 2.0), people, of) for name, (q, people, of) in cells.items()}
            for cells in self.quantiles
        ]
        return {"alpha": self.alpha, "multilabel": not self.labels.exclusive, "quantiles": finite}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        alpha, multilabel = state["alpha"], state["multilabel"]
        if not 0 < alpha < 1 or not isinstance(multilabel, bool):
            raise ValueError(f"alpha is {alpha} and multilabel {multilabel}")
        labels = labels_of(multilabel)
        # Earlier versions had one quantile for all classes that exclude each other, and did not say of whom.
        before = "all" if labels.exclusive else "class"
        quantiles = [
            {name: Cell(float(q), int(people), *(of or [before])) for name, (q, people, *of) in cells.items()}
            for cells in state["quantiles"]
        ]
        if not quantiles:
            raise ValueError("there are no quantiles")
        for cells in quantiles:
            for name, cell in cells.items():
                if not -ROUNDING <= cell.quantile <= 2 or cell.people < 0 or cell.of not in HAVING:
                    raise ValueError(
                        f"the quantile of {name!r} is {cell.quantile}, of {cell.people} ({cell.of})"
                    )
            if "all" not in cells:
                raise ValueError("the quantile of all patients is not there")
        return cls(alpha, labels, quantiles)


class _Scored(NamedTuple):
    """The score of every known true class of every view, and whose: [s] each."""

    score: Array
    c: NDArray[np.int64]
    size: NDArray[np.int64]  # modalities present
    person: NDArray[np.int64]
    weight: Array


def _calibrated(scored: _Scored, rare: Bools, M: int, level: float) -> list[dict[str, Cell]]:
    """For each class who answers for it, by what is present, in the order that `ConformalSets` states."""
    classes = range(len(rare))

    @cache
    def cell(who: int | str, size: int | None) -> Cell:
        rows = np.ones(len(scored.c), dtype=bool) if size is None else scored.size == size
        if isinstance(who, int):
            rows &= scored.c == who
        elif who != "all":
            alone = [c for c in classes if cell(c, size).people >= ENOUGH["class"]]
            rows &= (rare[scored.c] == (who == "rare")) & ~np.isin(scored.c, alone)
        quantile, people = _quantile_of_people(
            scored.score[rows], scored.person[rows], scored.weight[rows], level
        )
        return Cell(quantile, people, who if isinstance(who, str) else "class")

    def first(who: Sequence[int | str], size: int | None) -> Cell | None:
        return next((f for f in (cell(w, size) for w in who) if f.people >= ENOUGH[f.of]), None)

    quantiles = []
    for c in classes:
        like_it: list[int | str] = [c, "rare" if rare[c] else "common"]
        anyhow = first(like_it, None)
        who = like_it if anyhow else [*like_it, "all"]
        found = {f"{size} present": first(who, size) for size in range(M + 1)}
        enough = {name: each for name, each in found.items() if each is not None}
        quantiles.append(enough | {"all": anyhow or cell("all", None)})
    return quantiles


def _quantile_of_people(
    score: Array, person: NDArray[np.int64], weight: Array, level: float
) -> tuple[float, int]:
    """`conformal_quantile` of all views [s], those of a person sharing what the person weighs, and how many
    people they are of."""
    views = np.bincount(person)
    mass = weight / views[person]
    new = float(np.bincount(person, mass).max(initial=0))
    return conformal_quantile(score, level, mass, new), int(np.count_nonzero(views))


def conformal_quantile(score: Array, level: float, mass: Array | None = None, new: float = 1.0) -> float:
    """The smallest score s such that the scores up to s hold `level` of all mass, which is that of the
    scores, [n] (None: 1 each), and that of a new one, which counts as infinite. Without masses: the
    ceil((n + 1) level)-th smallest. Infinite where there are too few."""
    if mass is None:
        mass = np.ones(len(score))
    order = np.argsort(score)
    held = np.cumsum(mass[order])
    needed = level * (mass.sum() + new) * (1 - 1e-12)  # a sum of many may miss it by rounding
    k = int(np.searchsorted(held, needed))
    return float(score[order[k]]) if k < len(score) else math.inf


def check_presence(what: str, presence: Bools) -> None:
    """Raises ValueError for what is not bool [n, M]."""
    if presence.dtype != np.bool_ or presence.ndim != 2:
        raise ValueError(f"{what}: presence is {presence.dtype} {list(presence.shape)}, expected bool [n, M]")


def _check_labels(label: np.ndarray, known: Bools, labels: Labels) -> None:
    wrong = known & (label != 0) & (label != 1)
    if wrong.any():
        row, c = np.argwhere(wrong)[0]
        raise ValueError(
            f"ConformalSets: label[{row}, {c}] is {float(label[row, c])}, expected 0 or 1, or not known"
        )
    holds = (label == 1) & known
    impossible = labels.impossible(holds, known)
    if impossible.any():
        row = int(impossible.argmax())
        raise ValueError(
            f"ConformalSets: label[{row}] names {int(holds[row].sum())} classes, expected one "
            "(or labels=INDEPENDENT)"
        )
    if not holds.any():
        raise Refusal(
            f"ConformalSets: no class is known to hold for any of {len(label)} calibration patients, "
            "expected at least one such patient"
        )


def _name(present: Bools, cells: dict[str, Cell]) -> str:
    """Under which name a patient's quantile stands: its pattern, its number of modalities, or all."""
    pattern = "".join("1" if here else "0" for here in present)
    return next(name for name in (pattern, f"{pattern.count('1')} present", "all") if name in cells)
