"""Findings of one organ come together: they share a factor that nobody sees, as a sick organ shows it in
several ways at once. A normal copula of one factor for each organ: P(finding | state) stays what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from robustmdiff.data.cohort.table import FINDINGS

ORGANS: dict[str, tuple[str, ...]] = {
    "air spaces": (
        "right lower lobe consolidation", "left lower lobe consolidation", "right upper lobe consolidation",
        "ground-glass opacity", "crazy paving", "atelectasis", "hypoxaemia",
    ),
    "interstitium": ("septal lines", "honeycombing", "traction bronchiectasis"),
    "airways": (
        "tree-in-bud opacities", "bronchial wall thickening", "hyperinflation", "apical bullae",
        "thin-walled cysts", "hypercapnia",
    ),
    "pleura": ("right pleural effusion", "left pleural effusion", "pneumothorax"),
    "heart and vessels": (
        "cardiomegaly", "pulmonary artery dilatation", "wedge-shaped infarct", "raised NT-proBNP",
        "raised D-dimer",
    ),
    "masses and nodes": (
        "cavitary lesion", "lung mass", "mediastinal lymphadenopathy", "pulmonary nodules",
        "raised lactate dehydrogenase",
    ),
    "inflammation": (
        "fever", "leucocytosis", "lymphopenia", "raised C-reactive protein", "raised procalcitonin",
    ),
}  # fmt: skip
ORGAN_FINDINGS = tuple(np.array([FINDINGS.index(name) for name in names]) for names in ORGANS.values())


class Factor(NamedTuple):
    """Findings that are independent given the state and their factor u, whose Q values stand for N(0, 1)."""

    findings: np.ndarray  # int64 [G]
    weight: np.ndarray  # float64 [Q], sums to 1
    frequency: np.ndarray  # float64 [Q, K, G], P(finding | state, u)


def factors(frequency: np.ndarray, organs: Sequence[np.ndarray], correlation: float) -> list[Factor]:
    """All findings of frequency [K, F] in groups: those of `organs` (int64 [G] each) with their factor, and
    each of the others by itself, for which one value of u does."""
    u, weight = _values(correlation)
    shared = [
        Factor(organ, weight, given_factor(quantile(frequency[:, organ]), u[:, None, None], correlation))
        for organ in organs
    ]
    alone = np.setdiff1d(np.arange(frequency.shape[1]), [f for organ in organs for f in organ])
    return shared + [Factor(f, np.ones(1), frequency[None, :, f]) for f in alone[:, None]]


def _values(correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of u, and their weights: the trapezoidal rule, whose error falls exponentially once its step is
    below the width over which P(finding | u) rises. That of a posterior is below 1e-7 (Gauss-Hermite with
    15 nodes: .006 at a correlation of .6, .08 at .8)."""
    step = 0.5 / max(1.0, math.sqrt(correlation / (1 - correlation)))
    u = step * np.arange(-math.ceil(6 / step), math.ceil(6 / step) + 1)
    weight = np.exp(-(u**2) / 2)
    return u, weight / weight.sum()


def given_factor(threshold: np.ndarray, u: np.ndarray, correlation: float) -> np.ndarray:
    """P(z < threshold | u) for z = sqrt(correlation) u + sqrt(1 - correlation) eps, eps ~ N(0, 1)."""
    return _phi((threshold - math.sqrt(correlation) * u) / math.sqrt(1 - correlation))


def quantile(p: np.ndarray) -> np.ndarray:
    """Phi^-1(p), the threshold below which z ~ N(0, 1) lies with probability p."""
    return np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])(p)


def _phi(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2)) / 2
