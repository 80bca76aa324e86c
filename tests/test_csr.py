"""The builder of compressed rows, native and in numpy, against a definition that does not share its code."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustmdiff import csr


@pytest.fixture(params=["native", "numpy"])
def built(request, monkeypatch) -> None:
    """With the native module, and as where it is not built."""
    if request.param == "numpy":
        monkeypatch.setattr(csr, "_csr", None)
    elif csr._csr is None:
        pytest.skip("_host is not built")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    num_nodes = draw(st.integers(0, 9))
    node = st.integers(0, max(num_nodes - 1, 0))
    return num_nodes, draw(st.lists(st.tuples(node, node), max_size=17 if num_nodes else 0))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs())
def test_csr_holds_every_edge_once_by_target_in_its_given_order(built, graph):
    num_nodes, edges = graph
    source = np.array([s for s, _ in edges], np.int64)
    target = np.array([t for _, t in edges], np.int64)
    rowptr, col, order = csr.csr_from_edges(source, target, num_nodes)
    assert (rowptr.dtype, col.dtype, order.dtype) == (np.int64,) * 3
    assert rowptr.shape == (num_nodes + 1,)
    by_target = [[e for e, (_, t) in enumerate(edges) if t == n] for n in range(num_nodes)]
    assert order.tolist() == [e for row in by_target for e in row]
    assert [order[rowptr[n] : rowptr[n + 1]].tolist() for n in range(num_nodes)] == by_target
    assert col.tolist() == source[order].tolist()
    back = [(int(s), n) for n in range(num_nodes) for s in col[rowptr[n] : rowptr[n + 1]]]
    assert Counter(back) == Counter(edges)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([0, 1], [2, 3], r"target\[1\] is 3, expected 0 to 2 \(num_nodes is 3\)"),
        ([-1, 1], [2, 0], r"source\[0\] is -1, expected 0 to 2 \(num_nodes is 3\)"),
    ],
)
def test_an_edge_out_of_range_is_named(built, source, target, message):
    with pytest.raises(ValueError, match=message):
        csr.csr_from_edges(np.array(source, np.int64), np.array(target, np.int64), 3)


def test_edges_may_lie_apart_in_memory(built):
    pairs = np.array([[2, 0], [1, 0], [0, 1]], np.int64)
    col = csr.csr_from_edges(pairs[:, 0], pairs[:, 1], 3)[1]
    assert col.tolist() == [2, 1, 0]
