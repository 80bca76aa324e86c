"""Coalitions of players, every one of them, and what each player adds to their worth. Numpy only."""

from __future__ import annotations

import math

import numpy as np

from robustmdiff.ranking import Array, Bools


def every_subset(n: int) -> Bools:
    """bool [2^n, n]; row s has the members whose bits are set in s, so the first is empty, the last full."""
    return (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1


def shapley_values(worth: Array) -> Array:
    """worth [2^n, ...], of the coalitions in the order of `every_subset` -> [n, ...] (Shapley 1953):

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (worth(S + i) - worth(S))
    """
    n = len(worth).bit_length() - 1
    if len(worth) != 2**n:
        raise ValueError(f"shapley_values: worth has {len(worth)} rows, expected a power of two")
    member = every_subset(n)
    size = member.sum(1)
    weight = np.array([math.factorial(s) * math.factorial(n - s - 1) / math.factorial(n) for s in range(n)])
    phi = np.zeros((n, *worth.shape[1:]))
    for i in range(n):
        without = np.flatnonzero(~member[:, i])
        gain = worth[without | 1 << i] - worth[without]  # [2^(n-1), ...]
        phi[i] = np.tensordot(weight[size[without]], gain, axes=1)
    return phi
