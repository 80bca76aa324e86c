"""Reports in the cohort's grammar, without an image being rendered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustmdiff.data.cohort import report
from robustmdiff.data.cohort.mentions import findings_of
from robustmdiff.data.cohort.table import FINDINGS, MODALITIES, disease_table


def draw_reports(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """n reports, and what each says, bool [n, F]: each finding that reports show in one of eight."""
    rng = np.random.default_rng(seed)
    shown = disease_table(0).visible[MODALITIES.index("text")]
    readings = np.where(shown, rng.random((n, len(FINDINGS))) < 1 / 8, -1).astype(np.int8)
    return [report.write(row, degraded=False, rng=rng) for row in readings], readings == 1


def findings(texts: Sequence[str]) -> np.ndarray:
    """bool [n, F]"""
    return np.stack([findings_of(text) == 1 for text in texts])


def f1(said: np.ndarray, written: np.ndarray) -> float:
    """Micro, over all findings."""
    return 2 * (said & written).sum() / (said.sum() + written.sum())
