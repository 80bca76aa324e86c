"""Reports of the cohort and what they say, without an image being rendered."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from robustmdiff.data.cohort import report
from robustmdiff.data.cohort.table import FINDINGS, MODALITIES, disease_table

WORDS = {word for spellings in report.SYNONYMS.values() for each in spellings for word in each.split()}


def draw_reports(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """n reports, and what each says, bool [n, F]: each finding that reports show in one of eight."""
    rng = np.random.default_rng(seed)
    shown = disease_table(0).visible[MODALITIES.index("text")]
    readings = np.where(shown, rng.random((n, len(FINDINGS))) < 1 / 8, -1).astype(np.int8)
    return [report.write(row, degraded=False, rng=rng) for row in readings], readings == 1


def findings(texts: Sequence[str]) -> np.ndarray:
    """bool [n, F] as the cohort's grammar says, one transposition a word undone."""
    found = np.zeros((len(texts), len(FINDINGS)), dtype=bool)
    for row, text in zip(found, texts, strict=True):
        for item in re.split(r"[:.,]\s*", text):
            words = " ".join(map(_untwisted, item.split()))
            if not words.startswith("no "):
                row |= [words.endswith(report.SYNONYMS[name]) for name in FINDINGS]
    return found


def f1(said: np.ndarray, written: np.ndarray) -> float:
    """Micro, over all findings."""
    return 2 * (said & written).sum() / (said.sum() + written.sum())


def _untwisted(word: str) -> str:
    twisted = (word[:k] + word[k + 1] + word[k] + word[k + 2 :] for k in range(len(word) - 1))
    return word if word in WORDS or len(word) < 6 else next((each for each in twisted if each in WORDS), word)
