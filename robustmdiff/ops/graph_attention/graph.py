"""A directed graph in compressed rows, with its transpose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustmdiff.csr import csr_from_edges


class Graph(NamedTuple):
    """n nodes and E edges, sorted by target; all int64. Make it with `Graph.from_edges`.

    The backward pass walks the transpose, so no two threads ever add to one node and the sums
    have one order. A NamedTuple, because compile, export and torch.func look into one.
    """

    rowptr: Tensor  # [n + 1]: the in-edges of node i are rowptr[i] to rowptr[i + 1]
    col: Tensor  # [E] the source of each edge
    relation: Tensor | None  # [E] the kind of each edge
    out_rowptr: Tensor  # [n + 1]: the out-edges of node i, in the transpose's order
    out_target: Tensor  # [E] the target of each out-edge
    out_edge: Tensor  # [E] where each out-edge stands in col

    @property
    def num_nodes(self) -> int:
        return self.rowptr.shape[0] - 1

    @classmethod
    def from_edges(
        cls,
        source: Tensor | np.ndarray,
        target: Tensor | np.ndarray,
        num_nodes: int,
        relation: Tensor | np.ndarray | None = None,
    ) -> Graph:
        """Edge e lets `target[e]` attend to `source[e]`, by `relation[e]`.

        source, target, relation   integers [E]; an edge may occur twice; E and num_nodes may be 0.
        Edges of one target keep their order. Raises TypeError or ValueError, naming the first
        index that leaves 0 to num_nodes - 1.
        """
        if num_nodes < 0:
            raise ValueError(f"Graph.from_edges: num_nodes is {num_nodes}, expected at least 0")
        source = _indices("source", source, None, num_nodes)
        target = _indices("target", target, len(source), num_nodes)
        if relation is not None:
            relation = _indices("relation", relation, len(source), None)
        ends = source.cpu().numpy(), target.cpu().numpy()
        rowptr, col, order = csr_from_edges(*ends, num_nodes)
        out_rowptr, out_target, out_edge = csr_from_edges(ends[1][order], col, num_nodes)
        return cls(
            torch.from_numpy(rowptr),
            torch.from_numpy(col),
            None if relation is None else relation.cpu()[torch.from_numpy(order)],
            torch.from_numpy(out_rowptr),
            torch.from_numpy(out_target),
            torch.from_numpy(out_edge),
        ).to(source.device)

    def to(self, device: torch.device | str) -> Graph:
        return Graph(*(None if x is None else x.to(device) for x in self))  # type: ignore[arg-type]


def check_relation(relation: Tensor | None, relation_bias: Tensor | None) -> None:
    if relation is None or relation_bias is None or relation.device.type != "cpu" or not len(relation):
        return
    if int(relation.max()) >= relation_bias.shape[1]:
        raise ValueError(
            f"graph_attention: graph.relation holds {int(relation.max())}, expected 0 to "
            f"{relation_bias.shape[1] - 1}, the relations of relation_bias"
        )


def _indices(name: str, values: Tensor | np.ndarray, length: int | None, end: int | None) -> Tensor:
    indices = torch.as_tensor(values)
    if indices.dtype.is_floating_point or indices.dtype.is_complex or indices.dtype == torch.bool:
        raise TypeError(f"Graph.from_edges: {name} must be integers, got {indices.dtype}")
    if indices.ndim != 1 or (length is not None and len(indices) != length):
        expected = "[edges]" if length is None else f"[{length}] like source"
        raise ValueError(f"Graph.from_edges: {name} must be {expected}, got {list(indices.shape)}")
    wrong = indices < 0 if end is None else (indices < 0) | (indices >= end)
    if wrong.any():
        e = int(wrong.nonzero()[0])
        expected = "at least 0" if end is None else f"0 to {end - 1} (num_nodes is {end})"
        if end == 0:
            expected = "no edge (num_nodes is 0)"
        raise ValueError(f"Graph.from_edges: {name}[{e}] is {int(indices[e])}, expected {expected}")
    return indices.to(torch.int64)
