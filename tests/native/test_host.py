"""robustmdiff._host against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix

from robustmdiff import _host


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))
    )
)
def test_csr_holds_the_edges(graph):
    n, edges = graph
    source, target = (np.array([e[i] for e in edges], dtype=np.int64) for i in range(2))
    counts = coo_matrix((np.ones(len(edges)), (target, source)), shape=(n, n)).tocsr()
    rowptr, col, order = _host.csr(source, target, n)
    assert rowptr.tolist() == [0, *np.cumsum(np.bincount(target, minlength=n))]
    assert np.array_equal(np.sort(order), np.arange(len(edges)))
    assert np.array_equal(source[order], col)
    rows = np.repeat(np.arange(n), np.diff(rowptr))
    assert np.array_equal(target[order], rows)
    rebuilt = coo_matrix((np.ones(len(edges)), (rows, col)), shape=(n, n)).tocsr()
    assert (rebuilt != counts).nnz == 0
    for row in range(n):  # stable: the list's order within a node
        assert (np.diff(order[rowptr[row] : rowptr[row + 1]]) > 0).all()


def test_no_edges_and_no_nodes():
    none = np.zeros(0, dtype=np.int64)
    assert [x.tolist() for x in _host.csr(none, none, 0)] == [[0], [], []]
    assert [x.tolist() for x in _host.csr(none, none, 2)] == [[0, 0, 0], [], []]


@pytest.mark.parametrize(
    ("source", "target", "n", "message"),
    [
        ([0, 5], [1, 1], 3, r"source\[1\] is 5, expected 0 to 2 \(num_nodes is 3\)"),
        ([0, 1], [-1, 1], 3, r"target\[0\] is -1, expected 0 to 2"),
        ([0, 1], [1], 3, "source and target have 2 and 1 entries, expected two lists of equal length"),
        ([], [], -1, "num_nodes is -1, expected 0 or more"),
    ],
)
def test_bad_edges_are_named(source, target, n, message):
    with pytest.raises(ValueError, match=message):
        _host.csr(np.array(source, dtype=np.int64), np.array(target, dtype=np.int64), n)


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _host.csr(np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.float32), 3)
