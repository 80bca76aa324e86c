"""Subsets of the modalities: what may be left of a patient. Numpy only."""

from __future__ import annotations

import numpy as np

from robustmdiff.coalitions import every_subset
from robustmdiff.ranking import Bools

FEW = 6  # modalities of which every subset is asked about
ORDERS = 4  # in which more than these are taken away, one by one


def subsets(M: int) -> Bools:
    """The subsets of M modalities that models are tested with, bool [S, M]: every one of up to 6; of more the
    empty one, each alone, each one missing, and the full one."""
    if M <= FEW:
        return every_subset(M)
    alone = np.eye(M, dtype=bool)
    return np.concatenate([np.zeros((1, M), bool), alone, ~alone, np.ones((1, M), bool)])


def of_every_size(presence: Bools, seed: int = 0) -> Bools:
    """The subsets of what n patients have that models are calibrated with, presence bool [n, M] -> bool
    [S, n, M]: every one of up to 6 modalities; of more what is left as they go one by one, in ORDERS random
    orders of each patient, so that no number of modalities is without."""
    n, M = presence.shape
    if M <= FEW:
        return presence & every_subset(M)[:, None]
    chance = np.random.Generator(np.random.Philox(seed)).random((n, ORDERS, M))
    place = np.where(presence[:, None], chance, 1).argsort(-1).argsort(-1)  # what is absent goes first
    left = place < np.arange(M + 1)[:, None, None, None]  # [M + 1, n, ORDERS, M]
    return presence & left.swapaxes(1, 2).reshape(-1, n, M)


def distinct(left: Bools) -> tuple[Bools, np.ndarray]:
    """Each patient's distinct subsets among K: left bool [K, B, M] -> subsets bool [P, B, M], and for each
    of the K which of the P it is, int [K, B]. A patient with fewer than P repeats its last."""
    code = _code(left)
    which = np.empty_like(code)
    first = []
    for b in range(code.shape[1]):
        _, at, which[:, b] = np.unique(code[:, b], return_index=True, return_inverse=True)
        first.append(at)
    P = max(len(at) for at in first)
    index = np.stack([np.pad(at, (0, P - len(at)), mode="edge") for at in first], axis=1)  # [P, B]
    return left[index, np.arange(code.shape[1])], which


def first_of_each(left: Bools) -> Bools:
    """bool [K, B]: whether a patient's subset, left bool [K, B, M], is none of those before it. Taking away
    what a patient lacks anyway makes no second patient."""
    code = _code(left)
    first = np.zeros(code.shape, dtype=bool)
    for b in range(code.shape[1]):
        first[np.unique(code[:, b], return_index=True)[1], b] = True
    return first


def _code(left: Bools) -> np.ndarray:
    return left @ (1 << np.arange(left.shape[-1], dtype=np.int64))
