"""How good are the probabilities? Every metric takes weights with leading axes.

Sizes: n patients, C classes. `weight` is float64 [..., n] and a metric returns [...], so that a
bootstrap resample is nothing but one more row of weights (see statistics.py), and a test set
enriched for rare classes is weighted back to the population by the same argument.

A metric that is not defined (a class with one value only) is NaN *inside* this file;
`measure` leaves such a metric out and names the class in `skipped`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustmdiff.labels import EXCLUSIVE, Labels
from robustmdiff.probability import EPS, check_probability
from robustmdiff.ranking import Array, Bools, Ranking, check_range, check_score, check_weight, ratio

GROUPED = ("auroc", "auprc")  # of which there are means over all, the rare and the common classes


class Truth(NamedTuple):
    """What is known of n patients: label bool [n, C], counting only where known bool [n, C]."""

    label: Bools
    known: Bools


class Measured(NamedTuple):
    """values: metric name to float64 [...]; skipped: classes without both values, by name."""

    values: dict[str, Array]
    skipped: tuple[str, ...]


class Reliability(NamedTuple):
    """What was stated and how often it was right, by equal bins of what was stated, [bins] each: the mean
    of the stated probabilities, the share that was right (NaN where nobody is), and how many patients."""

    stated: Array
    right: Array
    patients: NDArray[np.int64]


def reliability(stated: Array, right: Bools, weight: Array, bins: int = 10) -> Reliability:
    """The reliability diagram (DeGroot and Fienberg 1983): stated [n] in [0, 1], right bool, weight [n]."""
    which = _bin(stated, bins)

    def share(value: Array | Bools) -> Array:
        found, total = (np.bincount(which, w, bins).astype(np.float64) for w in (weight * value, weight))
        return ratio(found, total)

    return Reliability(share(stated), share(right), np.bincount(which, minlength=bins))


def calibration_error(stated: Array, right: Bools, weight: Array, bins: int = 15) -> Array:
    """Expected calibration error (Naeini, Cooper and Hauskrecht 2015; of the most probable class: Guo et
    al. 2017): sum over equal-width bins of |sum_b w (stated - right)| / sum w.

    stated [n] in [0, 1], right bool [n], weight [..., n] -> [...].
    """
    check_range("calibration_error: stated", stated, 0, 1, expected="a number in [0, 1]")
    check_weight("calibration_error: weight", weight)
    gap = np.zeros((len(stated), bins))
    gap[np.arange(len(stated)), _bin(stated, bins)] = stated - right
    return ratio(np.abs(weight @ gap).sum(-1), weight.sum(-1))


def _bin(stated: Array, bins: int) -> np.ndarray:
    return np.clip((stated * bins).astype(np.int64), 0, bins - 1)


def mean(value: Array | Bools, weight: Array) -> Array:
    """Weighted mean: value [n], weight [..., n] -> [...]."""
    check_score("mean: value", value)
    check_weight("mean: weight", weight)
    return ratio(weight @ value.astype(np.float64), weight.sum(-1))


def measure(
    probability: Array,
    truth: Truth,
    weight: Array,
    classes: tuple[str, ...],
    rare: tuple[str, ...] = (),
    labels: Labels = EXCLUSIVE,
    sets: Bools | None = None,
) -> Measured:
    """All metrics of one table cell.

    probability float64 [n, C]; truth of the same patients; weight [..., n]; sets bool [n, C], the
    prediction sets, where there are any. Names:

        auroc/macro, auroc/rare, auroc/common, auroc/<class>     means over classes, then each class
        auprc/macro, /rare, /common, /<class>     likewise, of the average precision
        sensitivity95/rare, /common, /<class>     pooled: found positives of the group over all its positives
        accuracy                                  most probable class is the true one (exclusive)
        brier                                     mean of sum_c (p - y)^2; else the mean over known cells
        log_loss                                  mean of -log p of the true class; else over known cells
        ece, ece/classwise, ece/<class>           of the most probable class (exclusive); mean over classes
        coverage, coverage/rare, /common, /<class>    pooled: true classes (of the group) in the sets
        set_size                                  classes in a prediction set

    ValueError for a probability that is NaN, infinite or outside [0, 1], and for such weights.
    """
    check_probability("measure", probability)
    check_weight("measure: weight", weight)
    probability = probability.clip(0, 1)  # which rounding may have passed
    if probability.shape != truth.label.shape:
        raise ValueError(
            f"measure: probability is {list(probability.shape)}, "
            f"expected {list(truth.label.shape)} like the labels"
        )
    of_class: dict[str, dict[str, Array]] = {}
    for c, name in enumerate(classes):
        known = truth.known[:, c]
        held = None if sets is None else sets[known, c]
        of_class[name] = _of_class(probability[known, c], truth.label[known, c], weight[..., known], held)
    values = {
        f"{metric}/{name}": value
        for name, found in of_class.items()
        for metric, value in found.items()
        if metric != "positives"
    }
    measured = [name for name in classes if "auroc" in of_class[name]]
    values |= _of_groups(of_class, measured, rare)
    values |= _of_patients(probability, truth, weight, labels)
    if sets is not None:
        values |= _of_sets(sets, truth, weight, np.isin(classes, rare))
    return Measured(values, tuple(name for name in classes if name not in measured))


def _of_class(p: Array, label: Bools, weight: Array, held: Bools | None) -> dict[str, Array]:
    """Metrics of one class against the rest: p [n], label [n], weight [..., n], held [n] in the set."""
    values: dict[str, Array] = {}
    if held is not None and label.any():
        values["coverage"] = mean(held[label], weight[..., label])
    if label.any() and not label.all():
        ranking = Ranking.of(p, label, weight)
        values["auroc"] = ranking.auroc()
        values["auprc"] = ranking.average_precision()
        values["sensitivity95"] = ranking.sensitivity(0.95)
        values["ece"] = calibration_error(p, label, weight)
        values["positives"] = weight @ label.astype(np.float64)
    return values


def _of_groups(
    of_class: Mapping[str, Mapping[str, Array]], measured: Sequence[str], rare: Sequence[str]
) -> dict[str, Array]:
    """Means over classes, each counting as much as any (macro), and what is pooled over their patients."""
    groups = {
        "rare": [name for name in measured if name in rare],
        "common": [name for name in measured if name not in rare],
    }
    groups["macro"] = groups["rare"] + groups["common"]
    values: dict[str, Array] = {}
    for group, names in groups.items():
        if not names:
            continue
        for metric in GROUPED:
            values[f"{metric}/{group}"] = _nanmean([of_class[name][metric] for name in names])
        if group == "macro":
            values["ece/classwise"] = _nanmean([of_class[name]["ece"] for name in names])
        else:
            positives = np.stack([of_class[name]["positives"] for name in names])
            share = np.nan_to_num(np.stack([of_class[name]["sensitivity95"] for name in names]))
            values[f"sensitivity95/{group}"] = ratio((share * positives).sum(0), positives.sum(0))
    return values


def _of_patients(probability: Array, truth: Truth, weight: Array, labels: Labels) -> dict[str, Array]:
    """Metrics over patients rather than over classes; brier is that of Brier (1950)."""
    values: dict[str, Array] = {}
    squared = (probability - truth.label) ** 2 * truth.known
    surprise = -np.log(np.where(truth.label, probability, 1 - probability).clip(EPS, 1))
    if not labels.exclusive:
        cells = truth.known.sum(-1).astype(np.float64)
        if cells.any():
            values["brier"] = ratio(weight @ squared.sum(-1), weight @ cells)
            values["log_loss"] = ratio(weight @ (surprise * truth.known).sum(-1), weight @ cells)
        return values
    row, stated, right = labels.claims(probability, *truth)
    if len(row):
        w = weight[..., row]
        values["accuracy"] = mean(right, w)
        values["brier"] = mean(squared[row].sum(-1), w)
        values["log_loss"] = mean(surprise[row][(truth.label & truth.known)[row]], w)
        values["ece"] = calibration_error(stated, right, w)
    return values


def _of_sets(sets: Bools, truth: Truth, weight: Array, rare: Bools) -> dict[str, Array]:
    """rare bool [C]."""
    has = truth.label & truth.known
    groups = {"coverage": has, "coverage/rare": has & rare, "coverage/common": has & ~rare}
    covered = {name: _covered(sets, each, weight) for name, each in groups.items() if each.any()}
    return {"set_size": mean(sets.sum(-1).astype(np.float64), weight)} | covered


def _covered(sets: Bools, has: Bools, weight: Array) -> Array:
    """The share of what patients have, bool [n, C], that is in their sets."""
    found, count = ((weight @ each.sum(-1).astype(np.float64)) for each in (has & sets, has))
    return ratio(found, count)


def measure_calibration(
    probability: Array, truth: Truth, weight: Array, labels: Labels, sets: Bools | None = None
) -> dict[str, Array]:
    """Whether patients who have something in common are told the truth: arguments as of `measure`.

    ece             of the most probable class; several labels: over all known cells
    in_the_large    what is stated minus what is so, mean over the same (calibration in the large: Van
                    Calster et al. 2019): above 0 is too sure
    coverage        of the prediction sets
    """
    row, stated, right = labels.claims(probability, *truth)
    if not len(row):
        return {}
    stated, w = stated.clip(0, 1), weight[..., row]
    values = {"ece": calibration_error(stated, right, w), "in_the_large": mean(stated - right, w)}
    has = truth.label & truth.known
    if sets is not None and has.any():
        values["coverage"] = _covered(sets, has, weight)
    return values


def _nanmean(values: list[Array]) -> Array:
    stacked = np.stack(values)
    return ratio(np.nansum(stacked, axis=0), (~np.isnan(stacked)).sum(0).astype(np.float64))


def retention(auroc_p: Array, auroc_0: Array) -> Array:
    """Chance-corrected retention (AUC_p - .5) / (AUC_0 - .5); NaN where AUC_0 is not above chance."""
    return ratio(np.asarray(auroc_p) - 0.5, np.asarray(auroc_0) - 0.5)


def area_under_retention(rates: Array, retained: Array) -> Array:
    """Mean retention over the missing rates by the trapezoid rule: 1 means that nothing is lost.

    rates [P] ascending (0 to .9 in the protocol), retained [..., P] -> [...].
    """
    rates = np.asarray(rates, dtype=np.float64)
    if len(rates) < 2 or (np.diff(rates) <= 0).any():
        raise ValueError(
            f"area_under_retention: rates are {rates.tolist()}, expected ascending, at least two"
        )
    return np.trapezoid(retained, rates, axis=-1) / (rates[-1] - rates[0])
