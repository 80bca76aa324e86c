"""The exact posterior of the diagnosis given readings: the ceiling of every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustmdiff.data.cohort.draw import States
from robustmdiff.data.cohort.organs import Factor
from robustmdiff.data.cohort.table import SPECIFICITY, DiseaseTable


def reading_evidence(table: DiseaseTable, readings: np.ndarray) -> np.ndarray:
    """log P(reading | finding absent, present): float64 [n, M, F, 2], 0 where nothing is shown."""
    s = np.where(table.visible, table.sensitivity, 0.5)
    positive, shown = (readings == 1)[..., None], (readings >= 0)[..., None]
    given_present = np.stack([np.full_like(s, np.log(1 - SPECIFICITY)), np.log(s)], axis=-1)
    given_absent = np.stack([np.full_like(s, np.log(SPECIFICITY)), np.log1p(-s)], axis=-1)
    return np.where(shown, np.where(positive, given_present, given_absent), 0.0)


def posterior(
    states: States,
    evidence: np.ndarray,
    log_site: np.ndarray | None = None,
    log_mask: np.ndarray | None = None,
) -> np.ndarray:
    """P(class | evidence), float64 [n, C]: sums to 1, or with several labels each in [0, 1].

    evidence  float64 [n, F, 2], log P(everything read of a finding | absent, present).
    log_site  float64 [n, K], log P(site | state), where the mask depends on the site.
    log_mask  float64 [n, F + 1], log P(mask | number of findings), where it depends on severity.
    """
    scale = evidence.max(axis=-1, keepdims=True)  # common to all states: cancels
    absent, present = np.moveaxis(np.exp(evidence - scale), -1, 0)  # [n, F]
    out = np.empty((len(evidence), states.labels.shape[1]))
    factors = states.factors()
    most = max(len(factor.weight) for factor in factors) * (1 if log_mask is None else evidence.shape[1] + 1)
    step = max(1, 2**20 // (len(states.log_prior) * most))
    for rows in (slice(start, start + step) for start in range(0, len(out), step)):
        if log_mask is None:
            log_seen = _log_readings(factors, absent[rows], present[rows])
        else:
            log_seen = _log_readings_and_mask(factors, absent[rows], present[rows], log_mask[rows])
        log_p = states.log_prior + log_seen
        if log_site is not None:
            log_p = log_p + log_site[rows]
        p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        out[rows] = (p / p.sum(axis=1, keepdims=True)) @ states.labels
    return out


def _log_readings(factors: Sequence[Factor], absent: np.ndarray, present: np.ndarray) -> np.ndarray:
    """log P(evidence | state), float64 [n, K]; absent and present [n, F] are the likelihoods of a finding
    that is so. Factors are independent given the state, and findings given their factor, too."""
    total = np.zeros((len(absent), factors[0].frequency.shape[1]))
    for findings, weight, frequency in factors:
        likelihood = np.ones((len(absent), *frequency.shape[:2]))  # [n, Q, K]
        for g, f in enumerate(findings):
            p = frequency[..., g]
            likelihood *= absent[:, f, None, None] * (1 - p) + present[:, f, None, None] * p
        total += np.log(weight @ likelihood)
    return total


def _log_readings_and_mask(
    factors: Sequence[Factor], absent: np.ndarray, present: np.ndarray, log_mask: np.ndarray
) -> np.ndarray:
    """log P(evidence, mask | state), float64 [n, K]; the mask depends on how many findings there are."""
    peak = log_mask.max(axis=1, keepdims=True)
    count = count_likelihood(factors, absent, present)
    return np.log(np.einsum("nkf,nf->nk", count, np.exp(log_mask - peak)))


def count_likelihood(factors: Sequence[Factor], absent: np.ndarray, present: np.ndarray) -> np.ndarray:
    """P(evidence, number of findings | state): float64 [n, K, F + 1]."""
    n, K = len(absent), factors[0].frequency.shape[1]
    count = np.ones((n, K, 1))
    for findings, weight, frequency in factors:
        own = np.zeros((n, len(weight), K, len(findings) + 1))  # the factor's findings alone
        own[..., 0] = 1
        for g, f in enumerate(findings):
            p = frequency[..., g]
            one_more = own[..., : g + 1] * (present[:, f, None, None] * p)[..., None]
            own[..., : g + 1] *= (absent[:, f, None, None] * (1 - p))[..., None]
            own[..., 1 : g + 2] += one_more
        own = np.einsum("q,nqkg->nkg", weight, own)
        before, count = count, np.zeros((n, K, count.shape[2] + len(findings)))
        for more in range(len(findings) + 1):
            count[..., more : more + before.shape[2]] += before * own[..., more, None]
    return count
