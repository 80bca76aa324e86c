from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from robustmdiff.coalitions import every_subset, shapley_values


def test_every_subset_is_there_in_the_order_of_its_bits():
    assert set(map(tuple, every_subset(3).tolist())) == set(itertools.product([False, True], repeat=3))
    assert every_subset(3)[6].tolist() == [False, True, True]  # 6 = 110 in binary
    assert every_subset(0).shape == (1, 0)


def by_permutations(worth):
    """The other definition: a player's gain on arrival, averaged over all orders of arrival."""
    n = len(worth).bit_length() - 1
    phi = np.zeros((n, *worth.shape[1:]))
    for order in itertools.permutations(range(n)):
        before = 0
        for i in order:
            phi[i] += worth[before | 1 << i] - worth[before]
            before |= 1 << i
    return phi / math.factorial(n)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_equals_the_mean_over_orders_of_arrival(n):
    worth = np.random.default_rng(n).random((2**n, 3))
    np.testing.assert_allclose(shapley_values(worth), by_permutations(worth), rtol=0, atol=1e-14)


def test_rows_that_are_no_power_of_two():
    with pytest.raises(ValueError, match="worth has 6 rows, expected a power of two"):
        shapley_values(np.ones((6, 2)))
