"""What is a probability. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

ROUNDING = 1e-5  # by which a mean of float32 probabilities may pass 1
EPS = 1e-7  # a probability of float32 is no surer than that


def check_probability(what: str, probability: Any, patients: Sequence[str] | None = None) -> None:
    """Raises ValueError for the first of probability [..., n, C], an array or a tensor on the CPU, that is
    none: NaN, infinite or, but for rounding, outside [0, 1]. `patients` are the ids of the n rows."""
    p = np.asarray(probability)
    wrong = ~((p >= -ROUNDING) & (p <= 1 + ROUNDING))
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        row, c = place[-2:]
        who = f"row {row}" if patients is None else f"patient {patients[row]!r}"
        value = float(p[place])
        raise ValueError(
            f"{what}: the probability of class {c} is {value} for {who}, expected a number in [0, 1]"
        )
