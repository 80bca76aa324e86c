from __future__ import annotations

import numpy as np

from robustmdiff.coalitions import every_subset
from robustmdiff.diagnosis.subsets import ORDERS, distinct, first_of_each, of_every_size, subsets


def test_subsets_of_few_modalities_are_all_of_them():
    np.testing.assert_array_equal(subsets(6), every_subset(6))
    assert len(subsets(6)) == 64


def test_subsets_of_many_are_nothing_each_alone_each_missing_and_everything():
    seen = list(map(tuple, subsets(7).tolist()))
    assert seen[0] == (False,) * 7
    assert seen[1:8] == [tuple(i == j for j in range(7)) for i in range(7)]
    assert seen[8:15] == [tuple(i != j for j in range(7)) for i in range(7)]
    assert seen[15:] == [(True,) * 7]


def test_models_are_calibrated_with_every_number_of_modalities():
    n, M = 400, 8
    presence = np.random.default_rng(0).random((n, M)) < 0.8
    left, have = of_every_size(presence), presence.sum(1)
    assert (left <= presence).all()
    size = left.sum(-1).reshape(M + 1, ORDERS, n)
    for k in range(M + 1):
        np.testing.assert_array_equal(size[k], np.broadcast_to(np.minimum(k, have), (ORDERS, n)))
    assert (left[:-ORDERS] <= left[ORDERS:]).all()  # one by one
    # Any two of what is there, alike: counts of about 400 draws that are there with a chance of a third
    chance = presence * np.minimum(2, have)[:, None] / have[:, None]
    drawn, expected = left[2 * ORDERS : 3 * ORDERS].sum((0, 1)), ORDERS * chance.sum(0)
    assert (np.abs(drawn - expected) < 4 * np.sqrt(ORDERS * (chance * (1 - chance)).sum(0))).all()


def test_models_are_calibrated_with_every_subset_of_few_modalities():
    presence = np.random.default_rng(0).random((5, 6)) < 0.8
    np.testing.assert_array_equal(of_every_size(presence), presence & every_subset(6)[:, None])


def test_distinct_subsets_are_asked_about_once_and_looked_up():
    presence = np.array(
        [[True, True, True], [True, False, False], [False, False, False], [False, True, True]]
    )
    left = presence & every_subset(3)[:, None]  # [8, 4, 3]
    patterns, which = distinct(left)
    assert patterns.shape == (8, 4, 3)  # as many as the fullest patient has
    np.testing.assert_array_equal(patterns[which, np.arange(4)], left)
    for b, count in enumerate((8, 2, 1, 4)):
        assert len(np.unique(patterns[:, b], axis=0)) == len(np.unique(which[:, b])) == count


def test_the_first_of_each_is_new():
    presence = np.array([[True, True], [True, False], [False, False]])
    left = presence & every_subset(2)[:, None]
    assert first_of_each(left).T.tolist() == [
        [True] * 4,
        [True, True, False, False],
        [True, False, False, False],
    ]
