"""How good a diagnosis can be at most, with modalities taken away: the tables of docs/cohort.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from robustmdiff.data.cohort.cohort import Cohort
from robustmdiff.data.cohort.table import MODALITIES, RARE
from robustmdiff.ranking import auroc

SPECIFICITY = 0.95


class Ceiling(NamedTuple):
    """One row: what is there, and how well the posterior tells the classes apart."""

    present: str
    auroc: float  # mean over the classes
    retention: float  # (auroc - .5) / (auroc of the full data - .5)
    accuracy: float
    rare_recall: float  # at 95 % specificity, mean over the rare classes


def ceilings(
    cohort: Cohort,
    posterior: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    index: np.ndarray | None = None,
    seed: int = 0,
) -> list[Ceiling]:
    """Ceilings for everything, MCAR at several rates, and each modality alone.

    posterior(presence [n, M], index [n]) -> [n, C]; by default the cohort's exact one. Classes of
    which the patients `index` hold none are left out of the means. One label per patient."""
    index = np.arange(len(cohort)) if index is None else index
    posterior = posterior or cohort.posterior
    masks = {"everything": np.ones((len(cohort), len(MODALITIES)), dtype=bool)}
    for rate in (0.3, 0.5, 0.7, 0.9):
        masks[f"MCAR {rate:.1f}"] = cohort.mask("mcar", rate, seed)
    masks["MCAR 0.9, one kept"] = cohort.mask("mcar", 0.9, seed, keep_one=True)
    for m, name in enumerate(MODALITIES):
        masks[f"{name} alone"] = np.arange(len(MODALITIES))[None] == m + np.zeros((len(cohort), 1))
    rows: list[Ceiling] = []
    labels = cohort.labels[index]
    for present, mask in masks.items():
        p = posterior(mask[index], index)
        macro = float(np.nanmean([auroc(p[:, c], labels[:, c]) for c in range(labels.shape[1])]))
        full = rows[0].auroc if rows else macro
        rows.append(
            Ceiling(
                present,
                macro,
                (macro - 0.5) / (full - 0.5) if full != 0.5 else float("nan"),
                float((p.argmax(axis=1) == labels.argmax(axis=1)).mean()),
                float(np.nanmean([_recall(p[:, c], labels[:, c]) for c in range(-RARE, 0)])),
            )
        )
    return rows


def _recall(score: np.ndarray, positive: np.ndarray) -> float:
    """Share of positives above the threshold that 95 % of the negatives do not pass."""
    if not positive.any():
        return float("nan")
    return float((score[positive] > np.quantile(score[~positive], SPECIFICITY)).mean())
