"""CSR and cycle search against definitions that do not share their code."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.knowledge.csr import csr_definition, csr_from_edges, find_cycle

# The second is the native one where that is built, and the definition again where it is not.
FORMS = pytest.mark.parametrize("csr", [csr_definition, csr_from_edges])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    num_nodes = draw(st.integers(0, 9))
    node = st.integers(0, max(num_nodes - 1, 0))
    return num_nodes, draw(st.lists(st.tuples(node, node), max_size=17 if num_nodes else 0))


@FORMS
@given(graph=graphs())
def test_csr_holds_every_edge_once_by_target_in_its_given_order(csr: Callable, graph):
    num_nodes, edges = graph
    source = np.array([s for s, _ in edges], np.int64)
    target = np.array([t for _, t in edges], np.int64)
    rowptr, col, order = csr(source, target, num_nodes)
    assert (rowptr.dtype, col.dtype, order.dtype) == (np.int64,) * 3
    assert rowptr.shape == (num_nodes + 1,)
    by_target = [[e for e, (_, t) in enumerate(edges) if t == n] for n in range(num_nodes)]
    assert order.tolist() == [e for row in by_target for e in row]
    assert [order[rowptr[n] : rowptr[n + 1]].tolist() for n in range(num_nodes)] == by_target
    assert col.tolist() == source[order].tolist()
    back = [(int(s), n) for n in range(num_nodes) for s in col[rowptr[n] : rowptr[n + 1]]]
    assert Counter(back) == Counter(edges)


@FORMS
@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([0, 1], [2, 3], r"target\[1\] is 3, expected 0 to 2"),
        ([-1, 1], [2, 0], r"source\[0\] is -1, expected 0 to 2"),
    ],
)
def test_an_edge_out_of_range_is_named(csr: Callable, source, target, message):
    with pytest.raises(ValueError, match=message):
        csr(np.array(source, np.int64), np.array(target, np.int64), 3)


def test_edges_may_lie_apart_in_memory():
    pairs = np.array([[2, 0], [1, 0], [0, 1]], np.int64)
    col = csr_from_edges(pairs[:, 0], pairs[:, 1], 3)[1]
    assert col.tolist() == [2, 1, 0]


def reaches(num_nodes: int, edges: list[tuple[int, int]]) -> np.ndarray:
    """[a, b]: there is a path of one or more edges from a to b (Warshall)."""
    path = np.zeros((num_nodes, num_nodes), bool)
    for s, t in edges:
        path[s, t] = True
    for k in range(num_nodes):
        path |= path[:, k : k + 1] & path[k : k + 1, :]
    return path


@given(graphs())
def test_a_cycle_is_found_exactly_where_a_node_reaches_itself(graph):
    num_nodes, edges = graph
    cycle = find_cycle(num_nodes, [s for s, _ in edges], [t for _, t in edges])
    assert (cycle is not None) == bool(reaches(num_nodes, edges).diagonal().any())
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert set(itertools.pairwise(cycle)) <= set(edges)


def test_a_chain_deeper_than_the_interpreter_recurses_is_searched():
    n = 50_000
    chain = list(range(n - 1)), list(range(1, n))
    assert find_cycle(n, *chain) is None
    closed = find_cycle(n, [*chain[0], n - 1], [*chain[1], n - 3])
    assert closed == [n - 3, n - 2, n - 1, n - 3]
