"""Patients as numbers: who is ill with what, what is found, and what each modality reads of it.

Every array is filled row by row from a stream of its own, so patient i is the same whatever the
number of patients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustmdiff.data.cohort.config import CohortConfig
from robustmdiff.data.cohort.organs import ORGAN_FINDINGS, Factor, factors, given_factor, quantile
from robustmdiff.data.cohort.table import MODALITIES, RARE, SPECIFICITY, DiseaseTable

SITES = ("community hospital", "general hospital", "referral centre")
SITE_COMMON = np.array([0.40, 0.35, 0.25])  # P(site | no rare disease)
SITE_RARE = np.array([0.20, 0.30, 0.50])  # P(site | a rare disease)
AGE_MEAN, AGE_SD, AGE_RANGE = 60.0, 16.0, (18.0, 95.0)


class States(NamedTuple):
    """What may be wrong with a patient: one disease, or with `multilabel` any set of them."""

    labels: np.ndarray  # bool [K, C]
    log_prior: np.ndarray  # float64 [K]
    frequency: np.ndarray  # float64 [K, F], P(finding | state)
    organs: tuple[np.ndarray, ...] = ()  # int64 [G] each, findings that share a factor; the others do not
    correlation: float = 0.0  # of the normal variables behind two of them, see `organs.given_factor`

    @property
    def rare(self) -> np.ndarray:
        """bool [K]: a rare disease is part of the state."""
        return np.any(self.labels[:, -RARE:], axis=1)

    def factors(self) -> list[Factor]:
        """All findings, in groups that are independent given the state."""
        return factors(self.frequency, self.organs, self.correlation)


def states_of(table: DiseaseTable, multilabel: bool, correlation: float = 0.0) -> States:
    """All states with their prior. With `multilabel` the 11 diseases occur independently (2,048
    sets), class 0 means none of them, and a finding is absent when the background and each
    disease of the set fail to cause it (noisy-OR over the same table). Without a correlation no
    two findings share anything but the state."""
    C = len(table.prevalence)
    together = (ORGAN_FINDINGS if correlation else (), correlation)
    if not multilabel:
        return States(np.eye(C, dtype=bool), np.log(table.prevalence), table.frequency, *together)
    sets = (np.arange(2 ** (C - 1))[:, None] >> np.arange(C - 1) & 1).astype(bool)  # [K, C - 1]
    p = table.prevalence[1:]
    log_prior = np.where(sets, np.log(p), np.log1p(-p)).sum(axis=1)
    spared = 1 - table.frequency[0]
    # A disease cannot make a finding rarer than the background: the inhibition is at most 1.
    inhibition = np.minimum((1 - table.frequency[1:]) / spared, 1.0)  # [C - 1, F]
    frequency = 1 - spared * np.exp(sets @ np.log(inhibition))
    labels = np.concatenate([~sets.any(axis=1, keepdims=True), sets], axis=1)
    return States(labels, log_prior, frequency, *together)


class Draw(NamedTuple):
    """n patients before anything is rendered."""

    labels: np.ndarray  # bool [n, C]
    findings: np.ndarray  # bool [n, F], the truth
    readings: np.ndarray  # int8 [n, M, F]: 1 positive, 0 negative, -1 not shown by the modality
    site: np.ndarray  # int64 [n], index into SITES
    age: np.ndarray  # float64 [n], whole years
    female: np.ndarray  # bool [n]
    weights: np.ndarray  # float64 [n], mean 1: importance weights to the true prevalence


def stream(config: CohortConfig, name: str) -> np.random.Generator:
    """The generator of one quantity; streams of different names are independent."""
    return np.random.default_rng([config.seed, *name.encode()])


def draw(config: CohortConfig, table: DiseaseTable) -> Draw:
    """Label, findings, readings, in this order: all that a modality tells of the disease passes
    through its readings. Age and sex are independent of the disease, the site is not."""
    states = states_of(table, config.multilabel, config.correlation)
    natural = _choose(stream(config, "label").random(config.patients), np.exp(states.log_prior))
    state, weights = _enrich(natural, states, config.rare_per_class)
    n, (M, F) = len(state), table.sensitivity.shape
    rare = states.rare[state]
    u = stream(config, "site").random(n)
    site = np.where(rare, _choose(u, SITE_RARE), _choose(u, SITE_COMMON))
    age = AGE_MEAN + AGE_SD * stream(config, "age").standard_normal(n)
    findings = stream(config, "findings").random((n, F)) < _frequency(config, states, state)
    u = stream(config, "readings").random((n, M, F))
    positive = u < np.where(findings[:, None], table.sensitivity, 1 - SPECIFICITY)
    readings = np.where(table.visible, positive, -1).astype(np.int8)
    if config.aligned:
        readings[:, MODALITIES.index("mri")] = readings[:, MODALITIES.index("ct")]
    return Draw(
        labels=states.labels[state],
        findings=findings,
        readings=readings,
        site=site,
        age=np.clip(age, *AGE_RANGE).round(),
        female=stream(config, "sex").random(n) < 0.5,
        weights=weights,
    )


def _frequency(config: CohortConfig, states: States, state: np.ndarray) -> np.ndarray:
    """P(finding | state, the patient's factors), float64 [n, F]."""
    frequency = states.frequency[state]
    u = stream(config, "organs").standard_normal((len(state), len(states.organs)))
    for g, organ in enumerate(states.organs):
        threshold = quantile(states.frequency[:, organ])[state]
        frequency[:, organ] = given_factor(threshold, u[:, g, None], states.correlation)
    return frequency


def _choose(u: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(np.cumsum(p), u, side="right"), len(p) - 1)


def _enrich(natural: np.ndarray, states: States, rare_per_class: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Appends patients of each rare class up to the number asked for; the weights are the true
    prevalence over the share in the sample."""
    if rare_per_class is None:
        return natural, np.ones(len(natural))
    C = len(states.log_prior)
    lacking = [max(0, rare_per_class - int((natural == c).sum())) for c in range(C - RARE, C)]
    state = np.concatenate([natural, np.repeat(np.arange(C - RARE, C), lacking)])
    share = np.bincount(state, minlength=C) / len(state)
    weights = np.exp(states.log_prior)[state] / share[state]
    return state, weights / weights.mean()
