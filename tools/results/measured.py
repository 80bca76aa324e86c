"""What a record holds of an evaluation, in JSON's types; an interval is [value, low, high], a bound that
there is none of None. A condition goes by its name in `Results.tabled`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from robustmdiff.evaluation.conditions import Condition
from robustmdiff.evaluation.forecasts import METRICS as OF_FORECASTS
from robustmdiff.evaluation.forecasts import Comparison, difference
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import Interval, interval
from robustmdiff.evaluation.support import people_of

PROBABILITIES = ("auroc/macro", "auroc/rare", "log_loss", "brier")
SETS = ("coverage", "coverage/rare", "coverage/common", "set_size")
OF_GROUPS = ("ece", "in_the_large", "coverage")
Numbers = dict[str, Any]


def of_method(results: Results, method: str, metrics: Sequence[str]) -> Numbers:
    """Its values, and on the same resamples those of RobustMDiff, the first, minus them."""
    ours = results.methods[0]

    def each(of: Callable[[Condition, str], Interval | None]) -> Numbers:
        return {
            when: _there({metric: of(condition, metric) for metric in metrics})
            for when, condition in results.tabled.items()
        }

    values = each(lambda condition, metric: results.interval(method, condition, metric))
    minus = each(lambda condition, metric: results.difference(ours, method, condition, metric))
    return {"values": values, "ours_minus": None if method == ours else minus}


def people(results: Results, metrics: Sequence[str]) -> Numbers:
    """How many each metric is a share of, a mean of, or ranks."""
    return {metric: results.support(metric).people for metric in metrics}


def groups(results: Results, method: str) -> Numbers:
    """Calibration of those who share a site, a sex or an age."""
    return {
        name: {"people": people_of(results.persons, rows)}
        | {
            when: _there({what: results.of_group(name, method, condition, what) for what in OF_GROUPS})
            for when, condition in results.tabled.items()
        }
        for name, rows in results.subgroups.items()
    }


def marginal(runs: Sequence[Results], method: str) -> Numbers:
    """The best that sets with one threshold for all classes can do: it is chosen on the test patients
    themselves, so that they hold exactly what is promised on average. The share of the rare classes that they
    hold and their mean size, the means over the runs; {} where nobody tested has a rare class, or a patient
    may have several."""
    first = runs[0]
    if not first.support("coverage/rare").people or not first.task.labels.exclusive:
        return {}
    found = {}
    for when, condition in first.tabled.items():
        rare, size = np.mean([_marginal(run, method, condition) for run in runs], axis=0)
        found[when] = {"coverage/rare": float(rare), "set_size": float(size)}
    return found


def _marginal(results: Results, method: str, condition: Condition) -> tuple[float, float]:
    rows = results.task.labels.diagnosed(*results.truth)
    p, label = results.probability[method][condition][rows], results.truth.label[rows]
    weight = (np.ones(len(results.truth.label)) if results.weight is None else results.weight)[rows]
    stated = p[np.arange(len(p)), label.argmax(1)]
    order = np.argsort(-stated)
    held = np.cumsum(weight[order]) >= (1 - results.alpha) * weight.sum() * (1 - 1e-12)
    sets = p >= stated[order][held.argmax()]
    sets[np.arange(len(p)), p.argmax(1)] = True
    is_rare = label[:, [results.task.classes.index(name) for name in results.task.rare]].any(1)
    return (
        float(np.average((sets & label).any(1)[is_rare], weights=weight[is_rare])),
        float(np.average(sets.sum(1), weights=weight)),
    )


def forecasts(comparison: Comparison) -> Numbers:
    """The scores of each, the model's own first, and it minus the others."""
    (_, own), *others = comparison.scores.items()
    return {
        "people": comparison.people,
        "scores": {
            name: _there({metric: scores.interval(metric) for metric in OF_FORECASTS})
            for name, scores in comparison.scores.items()
        },
        "by_hidden": {
            name: {
                str(hidden): {"energy": _numbers(interval(energy)), "coverage": _numbers(interval(held))}
                for hidden, (energy, held) in scores.by_hidden.items()
            }
            for name, scores in comparison.scores.items()
        },
        "own_minus": {
            name: _there({metric: difference(own, scores, metric) for metric in OF_FORECASTS})
            for name, scores in others
        },
        "fixed_order": _numbers(interval(comparison.fixed_order)),
    }


def _there(found: Mapping[str, Interval | None]) -> Numbers:
    """Without what is not defined."""
    return {name: _numbers(each) for name, each in found.items() if each is not None}


def _numbers(found: Interval | None) -> list[float | None] | None:
    return found and [None if math.isnan(number) else float(number) for number in found]
