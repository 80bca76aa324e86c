"""What an evaluation found, as replicates, so that every comparison can still be made paired."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from robustmdiff.data.task import Task
from robustmdiff.evaluation import metrics, statistics
from robustmdiff.evaluation.conditions import COMPLETE, MCAR, MNAR_HALF, Condition, Subset, Sweep, mcar
from robustmdiff.evaluation.forecasts import Comparison
from robustmdiff.evaluation.masks import Masks
from robustmdiff.evaluation.metrics import Reliability, Truth
from robustmdiff.evaluation.statistics import Interval
from robustmdiff.evaluation.support import PEOPLE, Count, Support, counts, people_of, support
from robustmdiff.ranking import Array, Bools

CHANCE = 0.5  # AUROC of a coin
Values = dict[str, dict[Condition, dict[str, Array]]]  # by method, condition and metric: [R + 1]


@dataclass
class Results:
    """values[method][condition][metric] is float64 [R + 1]: the estimate and its replicates, on the
    same resamples of patients for every method. Conditions are those of `masks`; "ceiling" is the
    exact posterior, where there is one. probability[method][condition] is [n, C], and
    sets[method][condition] bool [n, C] where a method has prediction sets. of_subgroup has the values of
    `metrics.measure_calibration` for each of the subgroups that has PEOPLE, under the conditions `tabled`.
    answers[method] says which of its answers a model gave: a head's, or the mean of its draws."""

    task: Task
    masks: Masks
    presence: Bools  # [n, M] before anything is taken away
    truth: Truth
    alpha: float = 0.1
    weight: Array | None = None  # [n] importance weights
    groups: tuple[str, ...] = ()  # [n] the person of each row
    answers: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a reader of the report has to know
    subgroups: dict[str, Bools] = field(default_factory=dict)  # [n] each: who is in it
    values: Values = field(default_factory=dict)
    of_subgroup: dict[str, Values] = field(default_factory=dict)
    probability: dict[str, dict[Condition, Array]] = field(default_factory=dict)
    sets: dict[str, dict[Condition, Bools]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()  # classes without both values among these patients
    forecasts: Comparison | None = None  # of what is not yet seen, where a model makes any
    _support: dict[str, Support] = field(default_factory=dict, init=False, repr=False, compare=False)

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
            probability, self.truth, weights, task.classes, task.rare, task.labels, sets
        )
        self.values.setdefault(method, {})[condition] = measured.values
        self.probability.setdefault(method, {})[condition] = probability.astype(np.float32)
        if sets is not None:
            self.sets.setdefault(method, {})[condition] = sets
        self.skipped = measured.skipped
        if condition in self.tabled.values():
            self._add_subgroups(method, condition, probability, weights, sets)

    def _add_subgroups(
        self, method: str, condition: Condition, probability: Array, weights: Array, sets: Bools | None
    ) -> None:
        for name, rows in self.subgroups.items():
            if people_of(self.persons, rows) >= PEOPLE:
                truth = Truth(self.truth.label[rows], self.truth.known[rows])
                held = None if sets is None else sets[rows]
                values = self.of_subgroup.setdefault(name, {}).setdefault(method, {})
                values[condition] = metrics.measure_calibration(
                    probability[rows], truth, weights[..., rows], self.task.labels, held
                )

    @property
    def methods(self) -> list[str]:
        """All methods; the ceiling is none of them."""
        return [name for name in self.values if name != "ceiling"]

    @property
    def half(self) -> Sweep:
        """The condition of the sweep in which nearest to half of the modalities are missing."""
        return mcar(min(self.masks.rates, key=lambda rate: abs(rate - 0.5)))

    @property
    def tabled(self) -> dict[str, Condition]:
        """The conditions of the tables, by a short name."""
        found: dict[str, Condition] = {"complete": COMPLETE, "half": self.half}
        return found | ({"half, MNAR": MNAR_HALF} if MNAR_HALF in self.masks.keep else {})

    def interval(self, method: str, condition: Condition, metric: str) -> Interval | None:
        """None where the metric is not defined there; no bounds (NaN) where it rests on too few people."""
        values = self.values[method][condition].get(metric)
        return None if values is None else self._bounded(values, metric)

    def of_group(self, name: str, method: str, condition: Condition, metric: str) -> Interval | None:
        """The metric among the patients of a subgroup; None where it is not defined or the people are fewer
        than PEOPLE."""
        values = self.of_subgroup.get(name, {}).get(method, {}).get(condition, {}).get(metric)
        return None if values is None else statistics.interval(values)

    def _bounded(self, values: Array, metric: str) -> Interval | None:
        """The interval of values [R + 1], which rest on what the metric rests on."""
        found = statistics.interval(values)
        if found is None or self.support(metric).enough:
            return found
        return Interval(found.value, np.nan, np.nan)

    def difference(self, a: str, b: str, condition: Condition, metric: str) -> Interval | None:
        """a - b, paired."""
        A, B = (self.values[method][condition].get(metric) for method in (a, b))
        return None if A is None or B is None else self._bounded(statistics.difference(A, B), metric)

    def sweep(self, method: str, metric: str = "auroc/macro", at_least_one: bool = False) -> Array:
        """The metric at every missing rate: [R + 1, P]; empty [R + 1, 0] where it is not defined."""
        conditions = [self.values[method][mcar(rate, at_least_one)] for rate in self.masks.rates]
        if any(metric not in values for values in conditions):
            return np.empty((len(next(iter(conditions[0].values()))), 0))
        return np.stack([values[metric] for values in conditions], axis=-1)

    def near_chance(self, method: str, condition: Condition = COMPLETE) -> Interval | None:
        """The macro AUROC, with everything observed unless a condition is given, where its interval does not
        leave out chance: a ratio to it then means nothing. None where it does, and where there is no AUROC.
        Its bounds are those of the bootstrap even of few people."""
        values = self.values[method][condition].get("auroc/macro")
        full = None if values is None else statistics.interval(values)
        return full if full is not None and full.low <= CHANCE else None

    def retention(self, method: str, at_least_one: bool = False) -> Array:
        """Chance-corrected retention of macro AUROC at every rate, [R + 1, P]; all NaN for a method that is
        `near_chance`."""
        curve = self.sweep(method, "auroc/macro", at_least_one)
        if self.near_chance(method):
            return np.full_like(curve, np.nan)
        return metrics.retention(curve, curve[:, :1])

    def retained(self, method: str, condition: Sweep) -> Interval | None:
        """The share of the macro AUROC that is kept, chance-corrected; None where it is not defined, or the
        method `near_chance`."""
        at_least_one = isinstance(condition, MCAR) and condition.at_least_one
        curve = self.retention(method, at_least_one)
        if not curve.shape[1]:
            return None
        return self._bounded(curve[:, self.masks.rates.index(condition.rate)], "auroc/macro")

    def area(self, method: str, at_least_one: bool = False) -> Interval | None:
        """Area under the retention curve, divided by the range of rates; None where it is not defined."""
        curve = self.retention(method, at_least_one)
        if curve.shape[1] < 2:
            return None
        area = metrics.area_under_retention(np.array(self.masks.rates), curve)
        return self._bounded(area, "auroc/macro")

    def share_of_ceiling(self, method: str, condition: Condition) -> Interval | None:
        """(AUC - .5) / (AUC of the ceiling - .5) under the same condition; None where there is no ceiling, or
        its interval does not leave out chance."""
        if "ceiling" not in self.values or self.near_chance("ceiling", condition):
            return None
        reached, best = (self.values[name][condition].get("auroc/macro") for name in (method, "ceiling"))
        if reached is None or best is None:
            return None
        return self._bounded(metrics.retention(reached, best), "auroc/macro")

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
        """How often what is stated is right: of one class; without a name of the most probable class, or of
        all cells where classes do not exclude each other."""
        label, known = self.truth
        p = self.probability[method][condition].astype(np.float64).clip(0, 1)
        weight = np.ones(len(p)) if self.weight is None else self.weight
        if name is not None:
            c = self.task.classes.index(name)
            rows = known[:, c]
            return metrics.reliability(p[rows, c], label[rows, c], weight[rows], bins)
        row, stated, right = self.task.labels.claims(p, label, known)
        return metrics.reliability(stated, right, weight[row], bins)

    @property
    def people(self) -> int:
        return len(set(self.persons))

    @property
    def persons(self) -> tuple[str, ...]:
        """[n]: whose record each row is."""
        return self.groups or self.masks.ids

    @cached_property
    def counts(self) -> dict[str, Count]:
        """By class."""
        return counts(self.truth, self.persons, self.task.classes)

    def support(self, metric: str) -> Support:
        """What the metric rests on."""
        if metric not in self._support:
            self._support[metric] = support(metric, self.task, self.truth, self.persons, self.counts)
        return self._support[metric]

    def kept(self, condition: Condition) -> Bools:
        """bool [n, M]: what patients are left with."""
        return self.presence & self.masks.keep[condition]
