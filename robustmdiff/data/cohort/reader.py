"""A simple reader: how well are the readings recovered from pixels, words and values?

One ridge regression per modality, on its pixels, on the presence of its words and word pairs and
triples, or on its values. It shows that what the posterior knows is in the observations, and its
errors give a second ceiling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from robustmdiff.data.cohort.cohort import Cohort
from robustmdiff.data.cohort.missingness import Mechanism
from robustmdiff.data.cohort.table import FINDINGS, MODALITIES, SPECIFICITY
from robustmdiff.data.modality import Modality
from robustmdiff.ranking import auroc
from robustmdiff.refusal import Refusal

LAMBDAS = np.logspace(-4, 1, 11)  # of the ridge, relative to the mean eigenvalue
LIMIT = 8.0  # of the log likelihood ratio of one reading


@dataclass
class Reader:
    """Readers of all modalities, fitted on some patients of a cohort (see `fit`)."""

    modalities: dict[str, _ModalityReader]

    @staticmethod
    def fit(cohort: Cohort, index: np.ndarray) -> Reader:
        """Learns from the patients `index` (at least 50 of whom have each modality)."""
        cohort.check_exact()
        readers = {}
        for m, modality in enumerate(cohort.task.modalities):
            rows = index[cohort.presence[index, m]]
            if len(rows) < 50:
                raise Refusal(f"{len(rows)} patients have {modality.name!r}, expected at least 50")
            shown = np.flatnonzero(cohort.table.visible[m])
            target = cohort.drawn.readings[rows, m][:, shown] == 1
            features = _Features(modality, [cohort.patients.observe(i, modality.name) for i in rows])
            readers[modality.name] = _ModalityReader(features, target, shown)
        return Reader(readers)

    def scores(self, cohort: Cohort, index: np.ndarray) -> np.ndarray:
        """Score of every reading, float64 [len(index), M, F]; NaN where there is nothing to read."""
        out = np.full((len(index), len(MODALITIES), len(FINDINGS)), np.nan)
        for m, name in enumerate(MODALITIES):
            rows = np.flatnonzero(cohort.presence[index, m])
            if len(rows):
                reader = self.modalities[name]
                seen = [cohort.patients.observe(i, name) for i in index[rows]]
                out[rows[:, None], m, reader.shown] = reader.score(seen)
        return np.where(cohort.cells[index], out, np.nan)

    def check(self, cohort: Cohort, index: np.ndarray) -> dict[str, dict[str, float]]:
        """AUROC of recovering each reading, by modality and finding."""
        scores, readings = self.scores(cohort, index), cohort.drawn.readings[index]
        table: dict[str, dict[str, float]] = {}
        for m, name in enumerate(MODALITIES):
            table[name] = {}
            for f in self.modalities[name].shown:
                seen = ~np.isnan(scores[:, m, f])
                table[name][FINDINGS[f]] = float(auroc(scores[seen, m, f], readings[seen, m, f] == 1))
        return table

    def evidence(self, cohort: Cohort, index: np.ndarray) -> np.ndarray:
        """log P(score | finding absent, present), float64 [len(index), M, F, 2], up to a constant:
        the likelihood ratio of the reading, averaged over what the reading says of the finding."""
        scores = self.scores(cohort, index)
        out = np.zeros((*scores.shape, 2))
        for m, name in enumerate(MODALITIES):
            reader, sensitivity = self.modalities[name], cohort.table.sensitivity[m]
            ratio = np.exp(reader.log_ratio(scores[:, m, reader.shown]))
            for side, p in enumerate((1 - SPECIFICITY, sensitivity[reader.shown])):
                out[:, m, reader.shown, side] = np.nan_to_num(np.log(p * ratio + 1 - p))
        return out

    def ceiling(
        self,
        cohort: Cohort,
        presence: ArrayLike | None = None,
        index: Sequence[int] | np.ndarray | None = None,
        *,
        mechanism: Mechanism | None = None,
    ) -> np.ndarray:
        """The second ceiling: as `Cohort.posterior`, from the readings as this reader recovers them. Ask
        for patients that it did not learn from."""
        rows = np.arange(len(cohort)) if index is None else np.asarray(index, dtype=np.int64)
        evidence = np.zeros_like(cohort.evidence)
        evidence[rows] = self.evidence(cohort, rows)
        return cohort.posterior_from(evidence, presence, rows, mechanism=mechanism)


def reader_check(cohort: Cohort) -> dict[str, dict[str, float]]:
    """AUROC with which each reading is recovered from what was rendered, by modality and finding, by a
    reader fitted on the first half of the patients and tested on the second."""
    first, second = np.split(np.arange(len(cohort)), [len(cohort) // 2])
    return Reader.fit(cohort, first).check(cohort, second)


class _Features:
    """Observations of one modality as a standardised matrix."""

    def __init__(self, modality: Modality, observations: list):
        self.modality = modality
        if modality.kind == "text":
            grams = Counter(g for text in observations for g in _grams(text))
            self.grams = {g: k for k, g in enumerate(sorted(g for g, n in grams.items() if n > 1))}
        raw = self._raw(observations)
        self.mean = np.nanmean(raw, axis=0)
        self.sd = np.nanstd(raw, axis=0) + 1e-6
        if modality.kind == "image":
            self.sd[:] = self.sd.mean()  # pixels share a unit: noise in dark corners stays small
        self.fitted = self._standardise(raw)

    def __call__(self, observations: list) -> np.ndarray:
        return self._standardise(self._raw(observations))

    def _standardise(self, raw: np.ndarray) -> np.ndarray:
        return np.nan_to_num((raw - self.mean) / self.sd)  # a value not measured says nothing

    def _raw(self, observations: list) -> np.ndarray:
        if self.modality.kind == "image":
            return np.stack([image.ravel() for image in observations])
        if self.modality.kind == "text":
            out = np.zeros((len(observations), len(self.grams)), dtype=np.float32)
            for row, text in enumerate(observations):
                out[row, [self.grams[g] for g in _grams(text) if g in self.grams]] = 1
            return out
        return np.array([self._values(panel) for panel in observations], dtype=np.float32)

    def _values(self, panel: Mapping[str, float | str]) -> list[float]:
        out: list[float] = []
        for field in self.modality.fields:
            value = panel.get(field.name)
            if field.categories:
                out += [float("nan") if value is None else value == c for c in field.categories]
            else:
                out.append(float("nan") if value is None else float(value))
        return out


def _grams(text: str) -> set[str]:
    words = text.lower().replace(".", "").replace(",", " ,").split()
    return {" ".join(words[k : k + n]) for n in (1, 2, 3) for k in range(len(words) - n + 1)}


class _ModalityReader:
    """Ridge regression in its dual form; lambda by leave-one-out error, whose scores
    also tell how much a score says."""

    def __init__(self, features: _Features, target: np.ndarray, shown: np.ndarray):
        self.features, self.shown = features, shown
        self.offset = target.mean(axis=0)
        y = target - self.offset
        X = features.fitted
        value, vector = np.linalg.eigh((X @ X.T).astype(np.float64))
        value = np.maximum(value, 0)
        projected = vector.T @ y
        best = np.inf
        for ridge in LAMBDAS * value.mean():
            # Leave-one-out residual: (K + l)^-1 y over the diagonal of (K + l)^-1.
            alpha = vector @ (projected / (value + ridge)[:, None])
            diagonal = (vector**2) @ (1 / (value + ridge))
            residual = alpha / diagonal[:, None]
            if (error := (residual**2).sum()) < best:
                best, self.weights, score = error, X.T @ alpha, y - residual + self.offset
        self.middle, self.spread = score.mean(axis=0), score.std(axis=0) + 1e-9
        self.slope, self.intercept = _calibrate((score - self.middle) / self.spread, target)

    def score(self, observations: list) -> np.ndarray:
        return self.features(observations) @ self.weights + self.offset

    def log_ratio(self, score: np.ndarray) -> np.ndarray:
        """log P(score | reading positive) / P(score | reading negative)."""
        z = (score - self.middle) / self.spread
        return np.clip(self.slope * z + self.intercept, -LIMIT, LIMIT)


def _calibrate(z: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept [readings] of the log likelihood ratio: logistic regression of the reading
    on its score z [n, readings] with Platt's softened targets, less the log prior odds."""
    n1 = target.sum(axis=0)
    n0 = len(target) - n1
    y = np.where(target, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    prior = np.log((n1 + 1) / (n0 + 1))
    slope, intercept = np.ones(z.shape[1]), prior.copy()
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(slope * z + intercept, -30, 30)))
        w = p * (1 - p) + 1e-6
        g_slope, g_intercept = ((y - p) * z).sum(axis=0), (y - p).sum(axis=0)
        a, b, c = (w * z * z).sum(axis=0), (w * z).sum(axis=0), w.sum(axis=0)
        determinant = a * c - b * b
        slope += np.clip((c * g_slope - b * g_intercept) / determinant, -1, 1)
        intercept += np.clip((a * g_intercept - b * g_slope) / determinant, -1, 1)
    return slope, intercept - prior
