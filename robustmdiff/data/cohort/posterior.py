"""The exact posterior of the diagnosis given readings: the ceiling of every model."""

from __future__ import annotations

import numpy as np

from robustmdiff.data.cohort.draw import States
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
    step = max(1, 2**20 // (len(states.log_prior) * (1 if log_mask is None else evidence.shape[1] + 1)))
    for rows in (slice(start, start + step) for start in range(0, len(out), step)):
        log_p = states.log_prior + _log_readings(
            states.frequency, absent[rows], present[rows], None if log_mask is None else log_mask[rows]
        )
        if log_site is not None:
            log_p = log_p + log_site[rows]
        p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        out[rows] = (p / p.sum(axis=1, keepdims=True)) @ states.labels
    return out


def _log_readings(
    frequency: np.ndarray, absent: np.ndarray, present: np.ndarray, log_mask: np.ndarray | None
) -> np.ndarray:
    """log P(evidence, mask | state), float64 [n, K]; findings are independent given the state."""
    n, F = absent.shape
    K = len(frequency)
    if log_mask is None:
        total = np.zeros((n, K))
        for f in range(F):
            p = frequency[:, f]
            total += np.log(absent[:, f, None] * (1 - p) + present[:, f, None] * p)
        return total
    # The mask depends on how many findings there are: carry their number along. [n, K, F + 1]
    count = np.zeros((n, K, F + 1))
    count[..., 0] = 1
    for f in range(F):
        without = absent[:, f, None] * (1 - frequency[:, f])
        with_it = present[:, f, None] * frequency[:, f]
        one_more = count[..., : f + 1] * with_it[..., None]
        count[..., : f + 1] *= without[..., None]
        count[..., 1 : f + 2] += one_more
    peak = log_mask.max(axis=1, keepdims=True)
    return np.log(np.einsum("nkf,nf->nk", count, np.exp(log_mask - peak)))
