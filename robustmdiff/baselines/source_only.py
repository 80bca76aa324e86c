"""Diagnosis from where a patient comes from: what a data set's sources alone give away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task


class SourceOnly:
    """Class frequencies of the training patients of the same site, shrunk towards those of all
    sites as if one more patient were there. No modality is read, so no mask changes the answer:
    it goes into `evaluate` as a reference, `lambda kept: source.probability(patients)`.
    """

    def __init__(self, task: Task, training: Sequence[Patient]) -> None:
        self.task = task
        everywhere = self._frequency(training, np.asarray(task.prevalence, dtype=np.float64))
        sites = sorted({p.site for p in training if p.site is not None})
        self.frequency = {
            site: self._frequency([p for p in training if p.site == site], everywhere) for site in sites
        }
        self.everywhere = everywhere

    def _frequency(self, patients: Sequence[Patient], prior: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [C]; patients whose label for a class is unknown do not count for it."""
        said = [[p.labels.get(name) for name in self.task.classes] for p in patients]
        holds = np.array([[label is True for label in row] for row in said]).reshape(-1, len(prior)).sum(0)
        known = (
            np.array([[label is not None for label in row] for row in said]).reshape(-1, len(prior)).sum(0)
        )
        if self.task.labels.exclusive:  # one diagnosis: classes left out do not hold
            known = np.full(len(prior), holds.sum())
        return (holds + prior) / (known + 1)

    def probability(self, patients: Sequence[Patient]) -> NDArray[np.float64]:
        """float64 [n, C]; a patient of no site, or of one never seen, gets the frequencies of all."""
        rows = [
            self.everywhere if p.site is None else self.frequency.get(p.site, self.everywhere)
            for p in patients
        ]
        return np.stack(rows) if rows else np.empty((0, len(self.task.classes)))
