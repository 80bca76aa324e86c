"""Why a modality or a single value is missing: at random, by site and age, or by severity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustmdiff.data.cohort.config import KINDS
from robustmdiff.data.cohort.draw import AGE_MEAN, AGE_SD, SITE_COMMON, SITE_RARE, SITES, Draw, States
from robustmdiff.data.cohort.posterior import count_likelihood
from robustmdiff.data.cohort.table import MODALITIES

# Shifts of the log odds of being missing, by modality in the order of MODALITIES; the last
# column is for single values. Small hospitals and old patients get fewer scans and panels.
_SITE = np.array([
    [-0.5, 0.6, 1.5, 0.0, 0.2, 1.5, 0.4],  # community hospital
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.5, -0.9, -1.5, -0.3, -0.5, -1.5, -0.4],  # referral centre
])  # fmt: skip
_AGE = np.array([-0.4, 0.0, 0.7, -0.2, -0.3, 0.7, 0.2])  # per standard deviation
# Per standard deviation of severity: the sickest are too ill for MRI, the mildest are never
# sent to CT or the laboratory.
_SEVERITY = np.array([-0.6, -1.2, 1.0, -0.4, -1.0, 0.4, -0.6])


@dataclass(frozen=True)
class Mechanism:
    """How modalities and cells go missing. Severity is the number of true findings, which no
    modality shows; `severity_distribution` [F + 1] is its distribution in the population."""

    kind: str
    rate: float
    cell_rate: float
    severity_distribution: np.ndarray

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if not 0 <= self.rate < 1 or not 0 <= self.cell_rate < 1:
            raise ValueError(f"rate is {self.rate}, cell_rate {self.cell_rate}, expected both in [0, 1)")

    def missing_probability(self, site: np.ndarray, age: np.ndarray, severity: np.ndarray) -> np.ndarray:
        """P(missing) of each modality and, last, of a single cell: float64 [..., M + 1] for
        site, age and severity of one common shape. Its mean over the population is the rate."""
        rates = np.array([self.rate] * len(MODALITIES) + [self.cell_rate])
        if self.kind in ("none", "mcar"):
            return np.broadcast_to(rates, (*np.shape(site), len(rates)))
        shift = self._shift(site, age, severity)
        population, weight = self._population()
        return _sigmoid(_intercept(rates, population, weight) + shift) * (rates > 0)

    def log_likelihood(
        self, presence: np.ndarray, cells: tuple[np.ndarray, np.ndarray], site: np.ndarray, age: np.ndarray
    ) -> np.ndarray:
        """log P(mask | site, age, severity) for every severity: float64 [n, F + 1].

        presence bool [n, M]; cells = (missing, measured), int [n] each, counted over the panels
        that are present. Holds for masks drawn without `keep_one`."""
        levels = np.arange(len(self.severity_distribution))
        by_level = np.broadcast_arrays(site[:, None], age[:, None], levels[None])  # each [n, F + 1]
        p = self.missing_probability(*by_level)
        p = np.clip(p, 1e-12, 1 - 1e-12)
        q = p[..., :-1]
        whole = np.where(presence[:, None], np.log1p(-q), np.log(q)).sum(axis=-1)
        missing, measured = cells
        return whole + missing[:, None] * np.log(p[..., -1]) + measured[:, None] * np.log1p(-p[..., -1])

    def _shift(self, site: np.ndarray, age: np.ndarray, severity: np.ndarray) -> np.ndarray:
        if self.kind == "mar":
            return _SITE[site] + _AGE * ((age - AGE_MEAN) / AGE_SD)[..., None]
        levels = np.arange(len(self.severity_distribution))
        mean = levels @ self.severity_distribution
        sd = np.sqrt((levels - mean) ** 2 @ self.severity_distribution)
        return _SEVERITY * ((severity - mean) / sd)[..., None]

    def _population(self) -> tuple[np.ndarray, np.ndarray]:
        """Shifts [points, M + 1] of the population, and their weights."""
        if self.kind == "mar":
            z = np.linspace(-2.6, 2.2, 97)  # of age, clipped where AGE_RANGE clips
            site, z_of = (a.ravel() for a in np.meshgrid(np.arange(len(SITES)), z, indexing="ij"))
            weight = (SITE_COMMON[:, None] * np.exp(-(z**2) / 2)).ravel()
            return self._shift(site, AGE_MEAN + AGE_SD * z_of, site), weight / weight.sum()
        levels = np.arange(len(self.severity_distribution))
        return self._shift(levels, levels, levels), self.severity_distribution


def severity_distribution(states: States) -> np.ndarray:
    """P(number of findings) in the population, float64 [F + 1]."""
    nothing_seen = np.ones((1, states.frequency.shape[1]))
    return np.exp(states.log_prior) @ count_likelihood(states.factors(), nothing_seen, nothing_seen)[0]


def draw(mechanism: Mechanism, drawn: Draw, seed: int, presence: np.ndarray | None = None) -> np.ndarray:
    """A mask bool [n, M], True = kept. With `presence` bool [n, M], what the patients have, whoever
    would have nothing of it keeps one modality, chosen at random."""
    M = len(MODALITIES)
    p = missing_probability(mechanism, drawn)[:, :M]
    u = np.random.default_rng([seed, *b"mask"]).random((len(p), 2 * M))
    kept = u[:, :M] >= p
    if presence is not None:
        chance = np.where(presence, u[:, M:], -1)
        empty = np.flatnonzero(~(kept & presence).any(axis=1))
        kept[empty, chance[empty].argmax(axis=1)] = True
    return kept


def missing_probability(mechanism: Mechanism, drawn: Draw) -> np.ndarray:
    """P(missing) of each patient's modalities and, last, of a single cell: float64 [n, M + 1]."""
    return mechanism.missing_probability(drawn.site, drawn.age, drawn.findings.sum(axis=1))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _intercept(rates: np.ndarray, shift: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The intercept at which the population's mean probability is the rate, by bisection."""
    low, high = np.full(len(rates), -30.0), np.full(len(rates), 30.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = weight @ _sigmoid(middle + shift) > rates
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


def log_site(site: np.ndarray, rare: np.ndarray) -> np.ndarray:
    """log P(site | state) float64 [n, K], for the sites [n] and rare bool [K]."""
    return np.where(rare, np.log(SITE_RARE)[site, None], np.log(SITE_COMMON)[site, None])
