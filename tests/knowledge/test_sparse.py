"""A sparse table says what the dense array would say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.knowledge.sparse import SparseTable

NAN = np.float32("nan")


@st.composite
def dense_tables(draw) -> np.ndarray:
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    cells = st.one_of(st.just(float("nan")), st.sampled_from([0.0, 0.25, 1.0]))
    size = rows * columns
    return np.array(draw(st.lists(cells, min_size=size, max_size=size)), np.float32).reshape(rows, columns)


@given(dense_tables())
def test_dense_to_sparse_and_back(dense):
    table = SparseTable.from_dense(dense)
    np.testing.assert_array_equal(np.asarray(table), dense)
    assert table.shape == dense.shape
    for i in range(dense.shape[0]):
        for j in range(dense.shape[1]):
            np.testing.assert_equal(table[i, j], dense[i, j])
            np.testing.assert_equal(table[i - dense.shape[0], j], dense[i, j])
    assert SparseTable.of(table.shape, table.row, table.column, table.value) == table


@given(dense_tables(), st.randoms())
def test_a_part_is_the_part_of_the_dense_array(dense, random):
    rows = np.array(random.sample(range(dense.shape[0]), random.randint(0, dense.shape[0])), np.int64)
    columns = np.array(random.sample(range(dense.shape[1]), random.randint(0, dense.shape[1])), np.int64)
    part = SparseTable.from_dense(dense).part(rows, columns)
    np.testing.assert_array_equal(np.asarray(part), dense[np.ix_(rows, columns)])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([0.0, 0.5, np.nan]))))
def test_of_several_entries_at_one_place_the_last_number_stands(entries):
    dense = np.full((3, 4), NAN)
    for i, j, value in entries:
        dense[i, j] = dense[i, j] if np.isnan(value) else value
    row, column = (np.array([e[n] for e in entries], np.int64) for n in (0, 1))
    table = SparseTable.of((3, 4), row, column, np.array([e[2] for e in entries], float))
    np.testing.assert_array_equal(np.asarray(table), dense)


def test_tables_are_equal_by_shape_and_entries():
    one = np.array([[NAN, 0.5]], np.float32)
    assert SparseTable.from_dense(one) == SparseTable.from_dense(one.copy())
    assert SparseTable.from_dense(one) != SparseTable.from_dense(np.array([[0.5, NAN]], np.float32))
    assert SparseTable.empty(2, 3) != SparseTable.empty(3, 2)


def test_what_lies_outside_is_refused():
    zero, one = np.zeros(1, np.int64), np.ones(1)
    with pytest.raises(ValueError, match="row 2 of a sparse table, expected 0 to 1"):
        SparseTable.of((2, 3), zero + 2, zero, one)
    with pytest.raises(ValueError, match="column -1 of a sparse table, expected 0 to 2"):
        SparseTable.of((2, 3), zero, zero - 1, one)
    with pytest.raises(IndexError):
        SparseTable.empty(2, 3)[0, 3]
    with pytest.raises(ValueError, match=r"a table is float32 \[3\], expected \[rows, columns\]"):
        SparseTable.from_dense(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="ask for a copy"):
        np.array(SparseTable.empty(1, 1), copy=False)
