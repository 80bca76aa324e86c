"""How good are the probabilities? Every metric takes weights with leading axes.

Sizes: n patients, C classes. `weight` is float64 [..., n] and a metric returns [...], so that a
bootstrap resample is nothing but one more row of weights (see statistics.py), and a test set
enriched for rare classes is weighted back to the population by the same argument.

A metric that is not defined (a class with one value only) is NaN *inside* this file;
`measure` leaves such a metric out and names the class in `skipped`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustmdiff.encoders.encoded import check_probability

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Truth(NamedTuple):
    """What is known of n patients: label bool [n, C], counting only where known bool [n, C]."""

    label: Bools
    known: Bools


class Measured(NamedTuple):
    """values: metric name to float64 [...]; skipped: classes without both values, by name."""

    values: dict[str, Array]
    skipped: tuple[str, ...]


class _Range(NamedTuple):
    low: float
    high: float
    expected: str


FINITE = _Range(-np.inf, np.inf, "a finite number")
WEIGHT = _Range(0, np.inf, "a finite number of at least 0")
SHARE = _Range(0, 1, "a number in [0, 1]")


def _check(name: str, value: Array | Bools, range: _Range) -> None:
    """Raises ValueError for the first value outside the range."""
    right = np.isfinite(value) & (value >= range.low) & (value <= range.high)
    if not right.all():
        place = tuple(np.argwhere(~right)[0].tolist())
        raise ValueError(f"{name}[{', '.join(map(str, place))}] is {value[place]}, expected {range.expected}")


def _ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _by_score(score: Array, positive: Bools, weight: Array) -> tuple[Array, Array]:
    """Weight of positives and of negatives at each distinct score, highest score first: [..., G]."""
    order = np.argsort(-score, kind="stable")
    start = np.flatnonzero(np.diff(score[order], prepend=np.inf) != 0)
    at_score = weight[..., order]
    positives = at_score * positive[order]
    if len(start) < len(score):  # ties
        at_score = np.add.reduceat(at_score, start, axis=-1)
        positives = np.add.reduceat(positives, start, axis=-1)
    return positives, at_score - positives


def _area(p: Array, q: Array) -> Array:
    above = np.cumsum(p, axis=-1) - p / 2  # positives above a negative, ties count half
    return _ratio((above * q).sum(-1), p.sum(-1) * q.sum(-1))


def _sensitivity(p: Array, q: Array, specificity: float = 0.95) -> Array:
    total_p, total_q = p.sum(-1), q.sum(-1)
    # 1e-12: the sum of many weights may miss an exact 5 % by rounding
    allowed = np.cumsum(q, axis=-1) <= ((1 - specificity) * total_q * (1 + 1e-12))[..., None]
    found = np.where(allowed, np.cumsum(p, axis=-1), 0.0).max(-1, initial=0.0)
    return np.where(total_q > 0, _ratio(found, total_p), np.nan)


def auroc(score: Array, positive: Bools, weight: Array) -> Array:
    """P(score of a positive > score of a negative) + P(equal) / 2, weighted.

    score [n], positive bool [n], weight [..., n] -> [...]; NaN where only one value has weight.
    ValueError for a score or weight that is not finite.
    """
    _check("auroc: score", score, FINITE)
    _check("auroc: weight", weight, WEIGHT)
    return _area(*_by_score(score, positive, weight))


def sensitivity_at_specificity(
    score: Array, positive: Bools, weight: Array, specificity: float = 0.95
) -> Array:
    """Largest weighted sensitivity of a rule `score >= t` whose weighted specificity is at least
    `specificity`. The threshold is the one of these very patients: a point of their ROC curve.

    score [n], positive bool [n], weight [..., n] -> [...]; NaN where only one value has weight.
    ValueError for a score or weight that is not finite.
    """
    _check("sensitivity_at_specificity: score", score, FINITE)
    _check("sensitivity_at_specificity: weight", weight, WEIGHT)
    return _sensitivity(*_by_score(score, positive, weight), specificity)


def calibration_error(confidence: Array, correct: Bools, weight: Array, bins: int = 15) -> Array:
    """Expected calibration error: sum over equal-width bins of |sum_b w (confidence - correct)| / sum w.

    confidence [n] in [0, 1], correct bool [n], weight [..., n] -> [...].
    """
    _check("calibration_error: confidence", confidence, SHARE)
    _check("calibration_error: weight", weight, WEIGHT)
    which = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    gap = np.zeros((len(confidence), bins))
    gap[np.arange(len(confidence)), which] = confidence - correct
    return _ratio(np.abs(weight @ gap).sum(-1), weight.sum(-1))


def mean(value: Array | Bools, weight: Array) -> Array:
    """Weighted mean: value [n], weight [..., n] -> [...]."""
    _check("mean: value", value, FINITE)
    _check("mean: weight", weight, WEIGHT)
    return _ratio(weight @ value.astype(np.float64), weight.sum(-1))


def _nanmean(values: list[Array]) -> Array:
    stacked = np.stack(values)
    return _ratio(np.nansum(stacked, axis=0), (~np.isnan(stacked)).sum(0).astype(np.float64))


def measure(
    probability: Array,
    truth: Truth,
    weight: Array,
    classes: tuple[str, ...],
    rare: tuple[str, ...] = (),
    multilabel: bool = False,
    sets: Bools | None = None,
) -> Measured:
    """All metrics of one table cell.

    probability float64 [n, C]; truth of the same patients; weight [..., n]; sets bool [n, C], the
    prediction sets, where there are any. Names:

        auroc/macro, auroc/rare, auroc/common, auroc/<class>     means over classes, then each class
        sensitivity95/rare, /common, /<class>     pooled: found positives of the group over all its positives
        accuracy                                  most probable class is the true one (single label)
        brier                                     mean of sum_c (p - y)^2; multilabel: mean over known cells
        ece, ece/classwise, ece/<class>           of the most probable class (single label); mean over classes
        coverage, coverage/<class>, set_size      of the prediction sets

    ValueError for a probability that is NaN, infinite or outside [0, 1], and for such weights.
    """
    check_probability("measure", probability)
    _check("measure: weight", weight, WEIGHT)
    probability = probability.clip(0, 1)  # which rounding may have passed
    if probability.shape != truth.label.shape:
        raise ValueError(
            f"measure: probability is {list(probability.shape)}, "
            f"expected {list(truth.label.shape)} like the labels"
        )
    values: dict[str, Array] = {}
    skipped: list[str] = []
    groups: dict[str, list[str]] = {"rare": [], "common": []}
    for c, name in enumerate(classes):
        known = truth.known[:, c]
        positive, score, w = truth.label[known, c], probability[known, c], weight[..., known]
        if not (positive.any() and (~positive).any()):
            skipped.append(name)
            continue
        groups["rare" if name in rare else "common"].append(name)
        p, q = _by_score(score, positive, w)
        values[f"auroc/{name}"] = _area(p, q)
        values[f"sensitivity95/{name}"] = _sensitivity(p, q)
        values[f"positives/{name}"] = w @ positive.astype(np.float64)
        values[f"ece/{name}"] = calibration_error(score, positive, w)
        if sets is not None:
            values[f"coverage/{name}"] = mean(sets[known, c][positive], w[..., positive])
    measured = groups["rare"] + groups["common"]
    if measured:
        values["auroc/macro"] = _nanmean([values[f"auroc/{name}"] for name in measured])
        values["ece/classwise"] = _nanmean([values[f"ece/{name}"] for name in measured])
    for group, names in groups.items():
        if names:
            values[f"auroc/{group}"] = _nanmean([values[f"auroc/{name}"] for name in names])
            positives = np.stack([values[f"positives/{name}"] for name in names])
            found = np.nan_to_num(np.stack([values[f"sensitivity95/{name}"] for name in names])) * positives
            values[f"sensitivity95/{group}"] = _ratio(found.sum(0), positives.sum(0))
    for name in measured:
        del values[f"positives/{name}"]
    values |= _overall(probability, truth, weight, multilabel, sets)
    return Measured(values, tuple(skipped))


def _overall(
    probability: Array, truth: Truth, weight: Array, multilabel: bool, sets: Bools | None
) -> dict[str, Array]:
    """Metrics over patients rather than over classes."""
    values: dict[str, Array] = {}
    squared = (probability - truth.label) ** 2 * truth.known
    if multilabel:
        cells = truth.known.sum(-1).astype(np.float64)
        if cells.any():
            values["brier"] = _ratio(weight @ squared.sum(-1), weight @ cells)
    else:
        rows = (truth.label & truth.known).sum(-1) == 1  # patients whose one diagnosis is known
        if rows.any():
            p, label, w = probability[rows], truth.label[rows], weight[..., rows]
            correct = label[np.arange(len(p)), p.argmax(-1)]
            values["accuracy"] = mean(correct, w)
            values["brier"] = mean(squared[rows].sum(-1), w)
            values["ece"] = calibration_error(p.max(-1), correct, w)
    if sets is not None:
        held = truth.label & truth.known
        count = held.sum(-1).astype(np.float64)
        if count.any():
            values["coverage"] = _ratio(weight @ (held & sets).sum(-1).astype(np.float64), weight @ count)
        values["set_size"] = mean(sets.sum(-1).astype(np.float64), weight)
    return values


def retention(auroc_p: Array, auroc_0: Array) -> Array:
    """Chance-corrected retention (AUC_p - .5) / (AUC_0 - .5); NaN where AUC_0 is not above chance."""
    return _ratio(np.asarray(auroc_p) - 0.5, np.asarray(auroc_0) - 0.5)


def share_of_ceiling(auroc_p: Array, ceiling_p: Array) -> Array:
    """(AUC - .5) / (AUC_ceiling - .5) at the same missing rate; NaN where the ceiling is chance."""
    return retention(auroc_p, ceiling_p)


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
