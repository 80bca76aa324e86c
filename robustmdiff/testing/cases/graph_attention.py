"""graph_attention in the situations that its backends are tested in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustmdiff.ops import Graph, graph_attention
from robustmdiff.testing.case import Case, draw


def graph_case(
    name: str,
    n: int,
    source: Sequence[int] | Tensor,
    target: Sequence[int] | Tensor,
    relation: Sequence[int] | None = None,
    H: int = 3,
    D: int = 7,
) -> Case:
    source, target = (torch.as_tensor(x, dtype=torch.long) for x in (source, target))
    kind = None if relation is None else torch.tensor(relation, dtype=torch.long)
    graph = Graph.from_edges(source, target, n, kind)

    def plain(q: Tensor, k: Tensor, v: Tensor, relation_bias: Tensor | None = None) -> Tensor:
        """Each edge's rows gathered, the edges of a node added up."""
        reads, to = source.to(q.device), target.to(q.device)
        scores = (q[to] * k[reads]).sum(-1) * D**-0.5  # [E, H]
        if relation_bias is not None:
            scores = scores + relation_bias[:, kind].T
        index = to[:, None].expand_as(scores)
        largest = torch.zeros_like(q[:, :, 0]).scatter_reduce(
            0, index, scores.detach(), "amax", include_self=False
        )
        weights = (scores - largest[to]).exp()
        weights = weights / torch.zeros_like(largest).index_add(0, to, weights)[to]
        return torch.zeros_like(q).index_add(0, to, weights[..., None] * v[reads])

    def run(q: Tensor, k: Tensor, v: Tensor, relation_bias: Tensor | None = None) -> Tensor:
        return graph_attention(q, k, v, graph.to(q.device), relation_bias=relation_bias)

    tensors = {"q": draw(n, H, D, seed=8), "k": draw(n, H, D, seed=9), "v": draw(n, H, D, seed=10)}
    if relation is not None:
        tensors["relation_bias"] = draw(H, 5, seed=11)
    unread, silent = torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    unread[source], silent[target] = False, False
    return Case("graph_attention", name, tensors, run, plain, {"q": silent, "k": unread, "v": unread}, silent)


def cases() -> list[Case]:
    source, target = [0, 1, 2, 2, 5, 8, 8, 1, 0], [1, 0, 0, 3, 3, 3, 3, 10, 10]
    return [
        graph_case("several-edges", 11, source, target),
        graph_case("relations", 11, source, target, [0, 1, 2, 4, 4, 0, 0, 1, 2]),
        graph_case("nothing-present", 4, [], []),
        graph_case("one-node", 1, [0], [0]),
        graph_case("no-nodes", 0, [], []),
    ]
