"""graph_attention and its peers. Edges come sorted by target, the order that all of them like best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.candidates import BACKWARD, FORWARD, TRAINING, Candidate, Workload
from benchmarks.limits import EDGES
from benchmarks.peers.ours import backends
from robustmdiff.ops import Graph, graph_attention
from robustmdiff.testing.cases.graph_attention import graph_case

# Not the best peer, and three seconds a call on the graph of the table: two minutes of the suite's ten.
SLOW = "left out to save time: slower than PyG TransformerConv"


@dataclass(frozen=True)
class Nodes(Workload):
    graph: Graph
    target: Tensor  # int64 [E]; graph.col is the source


def nodes(
    name: str, n: int, source: Tensor, target: Tensor, H: int, D: int, device: str, dtype: torch.dtype
) -> Nodes:
    order = target.argsort(stable=True)
    source, target = source[order], target[order]
    case = graph_case(name, n, source, target, H=H, D=D)
    E = float(len(source))
    return Nodes(
        "graph_attention",
        name,
        {n: x.to(device, dtype) for n, x in case.tensors.items()},
        case.plain,
        {  # a row of k and of v for each edge; backward the same again, and q and the gradient the other way
            FORWARD: {EDGES: 2 * E},
            BACKWARD: {EDGES: 4 * E},
            TRAINING: {EDGES: 6 * E},
        },
        Graph.from_edges(source, target, n).to(device),
        target.to(device),
    )


def ours(given: Nodes) -> Callable[..., Tensor]:
    return lambda q, k, v: graph_attention(q, k, v, given.graph)


def _scatter(given: Nodes) -> Callable[..., Tensor]:
    source, target = given.graph.col, given.target

    def run(_: None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q[target] * k[source]).sum(-1) * q.shape[-1] ** -0.5  # [E, H]
        index = target[:, None].expand_as(scores)
        none = torch.full_like(q[:, :, 0], torch.finfo(q.dtype).min)
        largest = none.scatter_reduce(0, index, scores.detach(), "amax")
        weights = (scores - largest[target]).exp()
        total = torch.zeros_like(largest).index_add(0, target, weights)
        weights = weights / total[target]
        return torch.zeros_like(q).index_add(0, target, weights[..., None] * v[source])

    return run


def eager(given: Nodes) -> Candidate:
    return Candidate("torch scatter", _scatter(given), forward_only=SLOW)


def compiled(given: Nodes) -> Candidate:
    return Candidate("torch.compile, scatter", torch.compile(_scatter(given), dynamic=False))


def pyg_scatter(given: Nodes) -> Candidate:
    from torch_geometric.utils import scatter, softmax

    source, target = given.graph.col, given.target

    def run(_: None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q[target] * k[source]).sum(-1) * q.shape[-1] ** -0.5
        weights = softmax(scores, target, num_nodes=len(q))
        return scatter(weights[..., None] * v[source], target, dim=0, dim_size=len(q), reduce="sum")

    return Candidate("PyG softmax + scatter", run, forward_only=SLOW)


def pyg_convolution(given: Nodes) -> Candidate:
    """TransformerConv after its projections, which are no part of the op."""
    from torch_geometric.nn import TransformerConv

    H, D = given.tensors["q"].shape[1:]
    layer = TransformerConv(H * D, D, heads=H, root_weight=False, bias=False).to(given.device)
    edges = torch.stack([given.graph.col, given.target])

    def run(_: None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = layer.propagate(edges, query=q, key=k, value=v, edge_attr=None)
        layer._alpha = None
        return out

    return Candidate("PyG TransformerConv", run)


def sparse(given: Nodes) -> Candidate:
    """A head at a time: sampled product, sparse softmax, sparse-dense product."""
    n = given.graph.num_nodes
    rowptr, col, index = given.graph.rowptr, given.graph.col, torch.stack([given.target, given.graph.col])

    def pattern(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(
            rowptr, col, torch.zeros(len(col), dtype=q.dtype, device=q.device), (n, n)
        )

    def run(pattern: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = []
        for h in range(q.shape[1]):
            scores = torch.sparse.sampled_addmm(
                pattern, q[:, h], k[:, h].T, beta=0.0, alpha=q.shape[-1] ** -0.5
            )
            weights = torch.sparse.softmax(
                torch.sparse_coo_tensor(index, scores.values(), (n, n), is_coalesced=True), 1
            )
            heads.append(torch.sparse.mm(weights, v[:, h]))
        return torch.stack(heads, 1)

    return Candidate("torch.sparse", run, pattern)


MAKERS: dict[str, Callable[[Nodes], Candidate]] = {
    "torch scatter": eager,
    "torch.compile, scatter": compiled,
    "PyG softmax + scatter": pyg_scatter,
    "PyG TransformerConv": pyg_convolution,
    "torch.sparse": sparse,
    **backends("graph_attention", ours, {}, {"torch": "left out: a fallback whose backward takes seconds"}),
}
