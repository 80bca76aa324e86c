"""What one modality's readings say of another's: how well a report can be told from an X-ray, exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustmdiff.data.cohort.cohort import Cohort
from robustmdiff.data.cohort.table import MODALITIES, SPECIFICITY
from robustmdiff.refusal import Refusal


class Told(NamedTuple):
    """The exact posterior of one modality's readings given another's, of n patients.

    state    float64 [n, K], P(disease | readings seen)
    finding  float64 [n, K, F], P(finding | disease, reading seen)
    positive float64 [F], P(reading positive | finding) of the modality told; NaN where it shows nothing
    """

    state: np.ndarray
    finding: np.ndarray
    positive: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """P(reading positive | readings seen), float64 [n, F]; 0 of what the modality told does not show."""
        present = np.einsum("nk,nkf->nf", self.state, self.finding)
        return np.nan_to_num(present * self.positive + (1 - present) * (1 - SPECIFICITY)) * self._shown

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One draw of all readings together, int8 [n, F]: 1, 0, or -1 of what is not shown."""
        n, _, F = self.finding.shape
        disease = (rng.random((n, 1)) > self.state.cumsum(1)[:, :-1]).sum(1)
        present = rng.random((n, F)) < self.finding[np.arange(n), disease]
        positive = rng.random((n, F)) < np.where(present, self.positive, 1 - SPECIFICITY)
        return np.where(self._shown, positive, -1).astype(np.int8)

    @property
    def _shown(self) -> np.ndarray:
        return ~np.isnan(self.positive)


def told(cohort: Cohort, seen: str, of: str) -> Told:
    """What the readings of modality `seen` say of the readings of modality `of`.

    Of cohorts with one disease per patient, nothing missing and findings that are independent given the
    disease; Refusal for others.
    """
    config = cohort.config
    for name, value, expected in (
        ("multilabel", config.multilabel, False),
        ("correlation", config.correlation, 0.0),
        ("missingness", config.missingness, "none"),
    ):
        if value != expected:
            raise Refusal(f"{name} is {value!r}, expected {expected!r} for readings told from others")
    for name in (seen, of):
        if name not in MODALITIES:
            raise Refusal(f"modality is {name!r}, expected one of {', '.join(MODALITIES)}")
    m = MODALITIES.index(seen)
    alone = np.arange(len(MODALITIES)) == np.full((len(cohort), 1), m)
    absent, present = np.moveaxis(np.exp(cohort.evidence[:, m, None]), -1, 0)  # [n, 1, F]
    q = cohort.states.frequency
    return Told(
        state=cohort.posterior(alone),
        finding=present * q / (present * q + absent * (1 - q)),
        positive=cohort.table.sensitivity[MODALITIES.index(of)],
    )
