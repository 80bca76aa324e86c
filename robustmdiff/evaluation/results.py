"""What an evaluation found, as replicates, so that every comparison can still be made paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from robustmdiff.data.task import Task
from robustmdiff.evaluation import metrics, statistics
from robustmdiff.evaluation.masks import Masks, mcar
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.statistics import Interval
from robustmdiff.ranking import Array, Bools


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
    values: dict[str, dict[str, dict[str, Array]]] = field(default_factory=dict)
    probability: dict[str, dict[str, Array]] = field(default_factory=dict)
    sets: dict[str, dict[str, Bools]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()  # classes without both values among these patients

    def add(
        self, method: str, condition: str, probability: Array, weights: Array, sets: Bools | None = None
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
    def half(self) -> str:
        """The condition of the sweep in which nearest to half of the modalities are missing."""
        return mcar(min(self.masks.rates, key=lambda rate: abs(rate - 0.5)))

    def interval(self, method: str, condition: str, metric: str) -> Interval | None:
        """None where the metric is not defined there."""
        values = self.values[method][condition].get(metric)
        return None if values is None else statistics.interval(values)

    def difference(self, a: str, b: str, condition: str, metric: str) -> Interval | None:
        """a - b, paired."""
        A, B = (self.values[method][condition].get(metric) for method in (a, b))
        return None if A is None or B is None else statistics.difference(A, B)

    def sweep(self, method: str, metric: str = "auroc/macro", at_least_one: bool = False) -> Array:
        """The metric at every missing rate: [R + 1, P]; empty [R + 1, 0] where it is not defined."""
        conditions = [self.values[method][mcar(rate, at_least_one)] for rate in self.masks.rates]
        if any(metric not in values for values in conditions):
            return np.empty((len(next(iter(conditions[0].values()))), 0))
        return np.stack([values[metric] for values in conditions], axis=-1)

    def retention(self, method: str, at_least_one: bool = False) -> Array:
        """Chance-corrected retention of macro AUROC at every rate, [R + 1, P]."""
        curve = self.sweep(method, "auroc/macro", at_least_one)
        return metrics.retention(curve, curve[:, :1])

    def area(self, method: str, at_least_one: bool = False) -> Interval | None:
        """Area under the retention curve, divided by the range of rates."""
        curve = self.retention(method, at_least_one)
        if curve.shape[1] < 2:
            return None
        return statistics.interval(metrics.area_under_retention(np.array(self.masks.rates), curve))

    def share_of_ceiling(self, method: str, condition: str) -> Interval | None:
        if "ceiling" not in self.values:
            return None
        a, b = (self.values[m][condition].get("auroc/macro") for m in (method, "ceiling"))
        return None if a is None or b is None else statistics.interval(metrics.retention(a, b))

    def worst_subsets(self, method: str, count: int = 1) -> list[str]:
        """The non-empty subsets with the lowest macro AUROC, lowest first."""
        scored = [
            (float(self.values[method][name]["auroc/macro"][0]), name)
            for name in self.masks.subsets
            if "auroc/macro" in self.values[method][name]
        ]
        return [name for _, name in sorted(scored)[:count]]

    def kept(self, condition: str) -> Bools:
        """bool [n, M]: what patients are left with."""
        return self.presence & self.masks.keep[condition]


def over_seeds(runs: Sequence[Results]) -> dict[str, dict[str, dict[str, Array]]]:
    """values of the mean over runs that differ in their seed, with intervals over patients and
    seeds: [method][condition][metric] -> [R + 1] of whatever all runs have."""
    first = runs[0].values
    pooled: dict[str, dict[str, dict[str, Array]]] = {}
    for method in first:
        for condition, values in first[method].items():
            for metric in values:
                found = [run.values.get(method, {}).get(condition, {}).get(metric) for run in runs]
                stacked = [value for value in found if value is not None]
                if len(stacked) == len(runs):
                    pooled.setdefault(method, {}).setdefault(condition, {})[metric] = statistics.over_seeds(
                        np.stack(stacked)
                    )
    return pooled
