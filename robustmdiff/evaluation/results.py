"""What an evaluation found, as replicates, so that every comparison can still be made paired."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from robustmdiff.data.task import Task
from robustmdiff.evaluation import metrics, statistics
from robustmdiff.evaluation.conditions import COMPLETE, Condition, Subset, Sweep, mcar
from robustmdiff.evaluation.masks import Masks
from robustmdiff.evaluation.metrics import Reliability, Truth
from robustmdiff.evaluation.statistics import Interval
from robustmdiff.ranking import Array, Bools

CHANCE = 0.5  # AUROC of a coin


class Count(NamedTuple):
    """How many have a class, of how many of whom it is known: records, and the people whose they are."""

    records: int
    records_known: int
    people: int
    people_known: int


@dataclass
class Results:
    """values[method][condition][metric] is float64 [R + 1]: the estimate and its replicates, on the
    same resamples of patients for every method. Conditions are those of `masks`; "ceiling" is the
    exact posterior, where there is one. probability[method][condition] is [n, C], and
    sets[method][condition] bool [n, C] where a method has prediction sets."""

    task: Task
    masks: Masks
    presence: Bools  # [n, M] before anything is taken away
    truth: Truth
    alpha: float = 0.1
    weight: Array | None = None  # [n] importance weights
    groups: tuple[str, ...] = ()  # [n] the person of each row
    notes: tuple[str, ...] = ()  # what a reader of the report has to know
    values: dict[str, dict[Condition, dict[str, Array]]] = field(default_factory=dict)
    probability: dict[str, dict[Condition, Array]] = field(default_factory=dict)
    sets: dict[str, dict[Condition, Bools]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()  # classes without both values among these patients

    def add(
        self,
        method: str,
        condition: Condition,
        probability: Array,
        weights: Array,
        sets: Bools | None = None,
    ) -> None:
        """Measure probability [n, C] under resamples, weights [R + 1, n], and keep both."""
        task = self.task
        measured = metrics.measure(
            probability, self.truth, weights, task.classes, task.rare, task.multilabel, sets
        )
        self.values.setdefault(method, {})[condition] = measured.values
        self.probability.setdefault(method, {})[condition] = probability.astype(np.float32)
        if sets is not None:
            self.sets.setdefault(method, {})[condition] = sets
        self.skipped = measured.skipped

    @property
    def methods(self) -> list[str]:
        """All methods; the ceiling is none of them."""
        return [name for name in self.values if name != "ceiling"]

    @property
    def half(self) -> Sweep:
        """The condition of the sweep in which nearest to half of the modalities are missing."""
        return mcar(min(self.masks.rates, key=lambda rate: abs(rate - 0.5)))

    def interval(self, method: str, condition: Condition, metric: str) -> Interval | None:
        """None where the metric is not defined there."""
        values = self.values[method][condition].get(metric)
        return None if values is None else statistics.interval(values)

    def difference(self, a: str, b: str, condition: Condition, metric: str) -> Interval | None:
        """a - b, paired."""
        A, B = (self.values[method][condition].get(metric) for method in (a, b))
        return None if A is None or B is None else statistics.difference(A, B)

    def sweep(self, method: str, metric: str = "auroc/macro", at_least_one: bool = False) -> Array:
        """The metric at every missing rate: [R + 1, P]; empty [R + 1, 0] where it is not defined."""
        conditions = [self.values[method][mcar(rate, at_least_one)] for rate in self.masks.rates]
        if any(metric not in values for values in conditions):
            return np.empty((len(next(iter(conditions[0].values()))), 0))
        return np.stack([values[metric] for values in conditions], axis=-1)

    def near_chance(self, method: str) -> Interval | None:
        """The macro AUROC with everything observed, where its interval does not leave out chance: what is
        retained of it then means nothing. None where it does, and where there is no AUROC."""
        full = self.interval(method, COMPLETE, "auroc/macro")
        return full if full is not None and full.low <= CHANCE else None

    def retention(self, method: str, at_least_one: bool = False) -> Array:
        """Chance-corrected retention of macro AUROC at every rate, [R + 1, P]; all NaN for a method that is
        `near_chance`."""
        curve = self.sweep(method, "auroc/macro", at_least_one)
        if self.near_chance(method):
            return np.full_like(curve, np.nan)
        return metrics.retention(curve, curve[:, :1])

    def area(self, method: str, at_least_one: bool = False) -> Interval | None:
        """Area under the retention curve, divided by the range of rates; None where it is not defined."""
        curve = self.retention(method, at_least_one)
        if curve.shape[1] < 2:
            return None
        return statistics.interval(metrics.area_under_retention(np.array(self.masks.rates), curve))

    def share_of_ceiling(self, method: str, condition: Condition) -> Interval | None:
        """(AUC - .5) / (AUC of the ceiling - .5) under the same condition; None where there is no ceiling, or
        its interval does not leave out chance."""
        if "ceiling" not in self.values:
            return None
        best = self.interval("ceiling", condition, "auroc/macro")
        reached = self.values[method][condition].get("auroc/macro")
        if best is None or best.low <= CHANCE or reached is None:
            return None
        ceiling = self.values["ceiling"][condition]["auroc/macro"]
        return statistics.interval(metrics.retention(reached, ceiling))

    def worst_subsets(self, method: str, count: int = 1) -> list[Subset]:
        """The non-empty subsets with the lowest macro AUROC, lowest first."""
        scored = [
            (float(self.values[method][subset]["auroc/macro"][0]), subset)
            for subset in self.masks.subsets
            if "auroc/macro" in self.values[method][subset]
        ]
        return [subset for _, subset in sorted(scored, key=lambda one: (one[0], one[1].key))[:count]]

    def reliability(
        self, method: str, condition: Condition, name: str | None = None, bins: int = 10
    ) -> Reliability:
        """Of one class; without a name of the most probable class, or where labels are many of all cells."""
        label, known = self.truth
        p = self.probability[method][condition].astype(np.float64).clip(0, 1)
        weight = np.ones(len(p)) if self.weight is None else self.weight
        if name is not None:
            c = self.task.classes.index(name)
            rows = known[:, c]
            return metrics.reliability(p[rows, c], label[rows, c], weight[rows], bins)
        if self.task.multilabel:
            return metrics.reliability(p[known], label[known], np.repeat(weight, known.sum(1)), bins)
        rows = metrics.one_diagnosis(self.truth)
        right = label[rows, p[rows].argmax(1)]
        return metrics.reliability(p[rows].max(1), right, weight[rows], bins)

    @property
    def people(self) -> int:
        return len(set(self.groups)) or len(self.masks.ids)

    def counts(self) -> dict[str, Count]:
        """By class. A person has a class who has it in any record."""
        person = np.array(self.groups or self.masks.ids)
        counts = {}
        for c, name in enumerate(self.task.classes):
            known = self.truth.known[:, c]
            has = known & self.truth.label[:, c]
            people = (len(set(person[rows].tolist())) for rows in (has, known))
            counts[name] = Count(int(has.sum()), int(known.sum()), *people)
        return counts

    def kept(self, condition: Condition) -> Bools:
        """bool [n, M]: what patients are left with."""
        return self.presence & self.masks.keep[condition]
