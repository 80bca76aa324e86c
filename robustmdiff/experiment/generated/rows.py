"""One number of a generator's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from robustmdiff.evaluation.statistics import Interval, interval
from robustmdiff.ranking import Array

NOTHING = float("nan")
REPLICATES = 1000


class Row(NamedTuple):
    """task, method, measure  whose number it is, and of what
    value    with its interval over patients
    patients  n
    """

    task: str
    method: str
    measure: str
    value: Interval
    patients: int

    def plain(self) -> dict[str, Any]:
        """In JSON's types; None for an end that there are too few for, or that was not asked."""
        ends = (float(x) if np.isfinite(x) else None for x in self.value)
        return self._asdict() | dict(zip(("value", "low", "high"), ends, strict=True))


def measured(task: str, method: str, measure: str, replicates: Array, patients: Sequence[Any]) -> Row:
    """replicates of the bootstrap over patients, the first of all of them."""
    found = interval(replicates)
    return Row(task, method, measure, found or alone(NOTHING), len(patients))


def alone(value: float) -> Interval:
    """A number without an interval."""
    return Interval(value, NOTHING, NOTHING)
