"""Graphs over concepts as plain arrays: edges by target (CSR), and the search for a cycle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]


def csr_from_edges(source: np.ndarray, target: np.ndarray, num_nodes: int) -> Csr:
    """Sort edges by target, those of one target in their given order.

    source, target int64 [E], values in [0, num_nodes). Returns rowptr int64 [num_nodes + 1],
    col int64 [E] and order int64 [E]: the edges into node n come from col[rowptr[n]:rowptr[n + 1]],
    and col is source[order]. Raises ValueError for an edge out of range. The native module does
    it where it is built.
    """
    try:
        from robustmdiff._host import csr
    except ImportError:
        csr = csr_definition
    return csr(np.ascontiguousarray(source), np.ascontiguousarray(target), num_nodes)


def csr_definition(source: np.ndarray, target: np.ndarray, num_nodes: int) -> Csr:
    """What `csr_from_edges` means, in numpy."""
    for name, nodes in (("target", target), ("source", source)):
        outside = np.flatnonzero((nodes < 0) | (nodes >= num_nodes))
        if len(outside):
            e = outside[0]
            raise ValueError(f"{name}[{e}] is {nodes[e]}, expected 0 to {num_nodes - 1}")
    order = np.argsort(target, kind="stable")
    rowptr = np.zeros(num_nodes + 1, np.int64)
    np.cumsum(np.bincount(target, minlength=num_nodes), out=rowptr[1:])
    return rowptr, source[order], order


def find_cycle(num_nodes: int, source: Sequence[int], target: Sequence[int]) -> list[int] | None:
    """Nodes of one directed cycle, the first repeated at the end ([a, b, a]); None if there is none.

    Depth-first from node 0 up, edges of a node in their given order, so the answer is the same
    every time. Time and memory are linear in nodes and edges; deep graphs do not recurse.
    """
    successors: list[list[int]] = [[] for _ in range(num_nodes)]
    for s, t in zip(source, target, strict=True):
        successors[s].append(t)
    new, open_, done = 0, 1, 2
    state = [new] * num_nodes
    for start in range(num_nodes):
        if state[start] != new:
            continue
        state[start] = open_
        path, pending = [start], [iter(successors[start])]
        while path:
            for node in pending[-1]:
                if state[node] == open_:
                    return [*path[path.index(node) :], node]
                if state[node] == new:
                    state[node] = open_
                    path.append(node)
                    pending.append(iter(successors[node]))
                    break
            else:
                state[path.pop()] = done
                pending.pop()
    return None
