"""The inputs on which every op is tested and measured, and each op in dense torch beside them.

`plain` is written apart from the definitions, which loop over rows: it takes float64 for an exact
answer at any size, and the dtype at hand for what plain torch makes of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.ops import (
    Graph,
    graph_attention,
    knowledge_attention,
    masked_attention,
    segments_from_padded,
)

DEVICE = os.environ.get("RMD_TEST_DEVICE", "cpu")


@dataclass
class Case:
    """One call of an op, in float64: `run(**tensors)` is ours, `plain(**tensors)` the same in
    dense torch, in the dtype of what it is given."""

    op: str
    name: str
    tensors: dict[str, Tensor]
    run: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    absent: dict[str, Tensor] = field(default_factory=dict)  # by tensor, the rows never read
    silent: Tensor | None = None  # the rows of the result that are 0 and have no gradient

    def at(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: x.to(DEVICE, dtype).requires_grad_() for name, x in self.tensors.items()}


def refuses(op: str, call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    """`call()` raises whichever backend is asked for, in the same words."""
    found = []
    for asked in ({}, {op: "native"}):
        with use_backend(**asked), pytest.raises(error, match=message) as raised:
            call()
        found.append((raised.type, str(raised.value)))
    assert found[0] == found[1]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def segments(lengths: list[list[int]], columns: list[int]) -> Tensor:
    return segments_from_padded(torch.tensor(lengths), columns)


def segments_of_packed(lengths: Tensor) -> tuple[Tensor, int]:
    """Segments of tokens that lie end to end, absent modalities taking no room, and how many there are."""
    ends = lengths.flatten().cumsum(0).view_as(lengths)
    return torch.stack([ends - lengths, lengths], -1).to(torch.int32), int(ends[-1, -1])


def rows_of(segments: Tensor, rows: int) -> Tensor:
    present = torch.zeros(rows, dtype=torch.bool)
    for start, length in segments.flatten(0, 1).tolist():
        present[start : start + length] = True
    return present


def rows_and_modalities(segments: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each patient the rows of the flat axis that it owns, and the modality of each."""
    return [
        (
            torch.cat([torch.arange(start, start + length) for start, length in patient]),
            torch.arange(len(patient)).repeat_interleave(torch.tensor([length for _, length in patient])),
        )
        for patient in segments.tolist()
    ]


def masked_case(
    name: str,
    k_segments: Tensor,
    Tk: int,
    q_segments: Tensor | None = None,
    Tq: int | None = None,
    H: int = 6,
    Hkv: int = 6,
    D: int = 7,
    affinity: bool = False,
    exclude_own: bool = False,
) -> Case:
    q_segments, Tq = k_segments if q_segments is None else q_segments, Tk if Tq is None else Tq
    patients = list(zip(rows_and_modalities(q_segments), rows_and_modalities(k_segments), strict=True))

    def plain(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None = None) -> Tensor:
        """Dense for each patient: every query of the patient by every key of the patient."""
        k, v = (x.repeat_interleave(H // Hkv, 1) for x in (k, v))
        outs = []
        for (q_rows, i), (k_rows, j) in patients:
            scores = torch.einsum("qhd,khd->hqk", q[q_rows], k[k_rows]) * D**-0.5
            if affinity is not None:
                scores = scores + affinity[:, i][:, :, j]
            hidden = (i[:, None] == j).to(q.device) & exclude_own
            weights = scores.masked_fill(hidden, torch.finfo(q.dtype).min).softmax(-1) * ~hidden
            outs.append(torch.einsum("hqk,khd->qhd", weights, v[k_rows]))
        rows = torch.cat([q_rows for (q_rows, _), _ in patients]).to(q.device)
        return torch.zeros_like(q).index_put((rows,), torch.cat(outs))

    def run(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None = None) -> Tensor:
        segments = q_segments.to(q.device), k_segments.to(q.device)
        return masked_attention(q, k, v, *segments, affinity=affinity, exclude_own=exclude_own)

    tensors = {"q": draw(Tq, H, D, seed=1), "k": draw(Tk, Hkv, D, seed=2), "v": draw(Tk, Hkv, D, seed=3)}
    if affinity:
        tensors["affinity"] = draw(H, q_segments.shape[1], k_segments.shape[1], seed=4)
    silent = torch.ones(Tq, dtype=torch.bool)
    for (q_rows, i), (_, j) in patients:
        silent[q_rows] = ~((i[:, None] != j) | (not exclude_own)).any(1)
    absent = ~rows_of(k_segments, Tk)
    return Case(
        "masked_attention", name, tensors, run, plain, {"q": silent, "k": absent, "v": absent}, silent
    )


def knowledge_case(
    name: str, N: int, H: int, d: int, k: int, absent: list[int] | None, scale: float = 0.3
) -> Case:
    gone = torch.zeros(k, dtype=torch.bool)
    if absent:
        gone[absent] = True

    def plain(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None) -> Tensor:
        scores = torch.einsum("nhd,kd->nhk", q, concepts) * scale
        if log_prior is not None:
            scores = scores + log_prior
        scores = scores.masked_fill(gone.to(q.device), torch.finfo(q.dtype).min)
        weights = scores.softmax(-1) * ~gone.to(q.device)
        return torch.einsum("nhk,kd->nhd", weights, concepts)

    def run(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None) -> Tensor:
        if log_prior is not None:
            log_prior = log_prior.masked_fill(gone.to(q.device), -torch.inf)
        return knowledge_attention(q, concepts, log_prior, scale=scale)

    tensors = {"q": draw(N, H, d, seed=5), "concepts": draw(k, d, seed=6)}
    if absent is not None:
        tensors["log_prior"] = draw(k, seed=7)
    silent = torch.ones(N, dtype=torch.bool) if gone.all() else torch.zeros(N, dtype=torch.bool)
    return Case(
        "knowledge_attention", name, tensors, run, plain, {"concepts": gone, "log_prior": gone}, silent
    )


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
