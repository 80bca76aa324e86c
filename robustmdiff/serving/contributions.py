"""What each modality of one patient contributed to the answer: every subset of them, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustmdiff.coalitions import every_subset, shapley_values
from robustmdiff.data.task import Task
from robustmdiff.ranking import Array
from robustmdiff.runtime.inputs import Arrays


def under_every_subset(patient: Arrays, names: Sequence[str]) -> Arrays:
    """The arrays of one patient 2^n times, with each subset of the n modalities that it has, in the order of
    `every_subset`. Each observation is there once, so that it is encoded once."""
    left = every_subset(len(names))  # [2^n, n]
    at = {f"{name}.at": np.where(left[:, i], 0, -1) for i, name in enumerate(names)}
    absent = {name: np.full(len(left), -1) for name in patient if name.endswith(".at")}
    return patient | absent | at


def contributions(probability: Array, names: Sequence[str], task: Task) -> Mapping[str, Any]:
    """What the probabilities [2^n, C] under every subset come to: `nothing`, by class where no modality is
    seen, and `contribution`, the Shapley values by modality and class, which add up to the answer less
    `nothing`."""

    def by_class(row: Array) -> dict[str, float]:
        return dict(zip(task.classes, row.tolist(), strict=True))

    phi = shapley_values(probability.astype(np.float64))  # [n, C]
    return {
        "nothing": by_class(probability[0]),
        "contribution": {name: by_class(row) for name, row in zip(names, phi, strict=True)},
    }
