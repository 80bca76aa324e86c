"""Cycle search against a definition that does not share its code."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.knowledge.cycle import find_cycle


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    num_nodes = draw(st.integers(0, 9))
    node = st.integers(0, max(num_nodes - 1, 0))
    return num_nodes, draw(st.lists(st.tuples(node, node), max_size=17 if num_nodes else 0))


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
