"""Edges in compressed rows: the one builder, for the graphs of the ops and of the concept tables."""

from __future__ import annotations

import numpy as np

try:
    from robustmdiff._host import csr as _csr
except ImportError:  # not built: numpy's stable sort gives the same arrays, slower
    _csr = None


def csr_from_edges(
    source: np.ndarray, target: np.ndarray, num_nodes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort edges by target, those of one target in their given order.

    source, target int64 [E], values in [0, num_nodes). Returns rowptr int64 [num_nodes + 1],
    col int64 [E] and order int64 [E]: the edges into node n come from col[rowptr[n]:rowptr[n + 1]],
    and col is source[order]. Raises ValueError for an edge out of range.
    """
    if _csr is not None:
        return _csr(np.ascontiguousarray(source), np.ascontiguousarray(target), num_nodes)
    for name, nodes in (("target", target), ("source", source)):
        outside = np.flatnonzero((nodes < 0) | (nodes >= num_nodes))
        if len(outside):
            e = outside[0]
            expected = f"0 to {num_nodes - 1} (num_nodes is {num_nodes})"
            raise ValueError(f"{name}[{e}] is {nodes[e]}, expected {expected}")
    order = np.argsort(target, kind="stable")
    rowptr = np.zeros(num_nodes + 1, np.int64)
    np.cumsum(np.bincount(target, minlength=num_nodes), out=rowptr[1:])
    return rowptr, source[order], order
