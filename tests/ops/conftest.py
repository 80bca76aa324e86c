"""The situations in which every backend of every attention op is tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from robustmdiff.ops import (
    Graph,
    graph_attention,
    knowledge_attention,
    masked_attention,
    segments_from_padded,
)
from robustmdiff.ops.dispatch import Op

OPS = ("masked_attention", "knowledge_attention", "graph_attention")


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
        return {name: x.to(dtype).requires_grad_() for name, x in self.tensors.items()}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def segments(lengths: list[list[int]], columns: list[int]) -> Tensor:
    return segments_from_padded(torch.tensor(lengths), columns)


def rows_of(segments: Tensor, rows: int) -> Tensor:
    present = torch.zeros(rows, dtype=torch.bool)
    for start, length in segments.flatten(0, 1).tolist():
        present[start : start + length] = True
    return present


def masked_case(
    name: str,
    k_segments: Tensor,
    Tk: int,
    q_segments: Tensor | None = None,
    Tq: int | None = None,
    H: int = 6,
    Hkv: int = 6,
    affinity: bool = False,
    exclude_own: bool = False,
) -> Case:
    D, q_segments, Tq = 7, k_segments if q_segments is None else q_segments, Tk if Tq is None else Tq
    visible = torch.zeros(Tq, Tk, dtype=torch.bool)
    modality_q, modality_k = torch.zeros(Tq, dtype=torch.long), torch.zeros(Tk, dtype=torch.long)
    for patient_q, patient_k in zip(q_segments.tolist(), k_segments.tolist(), strict=True):
        for i, (q0, nq) in enumerate(patient_q):
            for j, (k0, nk) in enumerate(patient_k):
                modality_q[q0 : q0 + nq], modality_k[k0 : k0 + nk] = i, j
                visible[q0 : q0 + nq, k0 : k0 + nk] = not (exclude_own and i == j)

    def plain(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None = None) -> Tensor:
        k, v = (x.repeat_interleave(H // Hkv, 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * D**-0.5
        if affinity is not None:
            scores = scores + affinity[:, modality_q][:, :, modality_k]
        scores = scores.masked_fill(~visible, torch.finfo(q.dtype).min)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1) * visible, v)

    def run(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None = None) -> Tensor:
        return masked_attention(q, k, v, q_segments, k_segments, affinity=affinity, exclude_own=exclude_own)

    tensors = {"q": draw(Tq, H, D, seed=1), "k": draw(Tk, Hkv, D, seed=2), "v": draw(Tk, Hkv, D, seed=3)}
    if affinity:
        tensors["affinity"] = draw(H, q_segments.shape[1], k_segments.shape[1], seed=4)
    absent = ~rows_of(k_segments, Tk)
    silent = ~visible.any(1)
    return Case(
        "masked_attention", name, tensors, run, plain, {"q": silent, "k": absent, "v": absent}, silent
    )


def masked_cases() -> list[Case]:
    ragged = segments([[4, 3, 5], [0, 2, 4], [0, 0, 0], [1, 0, 0], [3, 3, 5]], [0, 4, 8, 13])
    one_row = torch.tensor([[[i, 1]] for i in range(5)], dtype=torch.int32)
    packed = torch.tensor([[[7, 2], [0, 0]], [[0, 3], [4, 2]]], dtype=torch.int32)
    left = segments_from_padded(torch.tensor([[2], [5], [0]]), torch.tensor([[3, 5], [0, 5], [5, 5]]))
    return [
        masked_case("some-absent", ragged, 65),
        masked_case("nothing-present", segments([[0, 0], [0, 0], [0, 0]], [0, 2, 5]), 15),
        masked_case("no-tokens-at-all", torch.zeros(2, 3, 2, dtype=torch.int32), 0),
        masked_case("one-token", torch.tensor([[[0, 1]]], dtype=torch.int32), 1),
        masked_case("everything-present", segments([[3, 2], [3, 2], [3, 2]], [0, 3, 5]), 15),
        masked_case("packed-out-of-order", packed, 9),
        masked_case("left-padded", left, 15),
        masked_case("learned-queries", ragged, 65, one_row, 5),
        masked_case("shared-key-heads", ragged, 65, Hkv=2),
        masked_case("affinity", ragged, 65, affinity=True),
        masked_case("affinity-shared-key-heads", ragged, 65, Hkv=3, affinity=True),
        masked_case("exclude-own", ragged, 65, exclude_own=True),
        masked_case("affinity-exclude-own", ragged, 65, Hkv=2, affinity=True, exclude_own=True),
    ]


def knowledge_case(name: str, N: int, H: int, d: int, k: int, absent: list[int] | None) -> Case:
    gone = torch.zeros(k, dtype=torch.bool)
    if absent:
        gone[absent] = True

    def plain(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None) -> Tensor:
        scores = torch.einsum("nhd,kd->nhk", q, concepts) * 0.3
        if log_prior is not None:
            scores = scores + log_prior
        scores = scores.masked_fill(gone, torch.finfo(q.dtype).min)
        return torch.einsum("nhk,kd->nhd", scores.softmax(-1) * ~gone, concepts)

    def run(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None) -> Tensor:
        if log_prior is not None:
            log_prior = log_prior.masked_fill(gone, -torch.inf)
        return knowledge_attention(q, concepts, log_prior, scale=0.3)

    tensors = {"q": draw(N, H, d, seed=5), "concepts": draw(k, d, seed=6)}
    if absent is not None:
        tensors["log_prior"] = draw(k, seed=7)
    silent = torch.ones(N, dtype=torch.bool) if gone.all() else torch.zeros(N, dtype=torch.bool)
    return Case(
        "knowledge_attention", name, tensors, run, plain, {"concepts": gone, "log_prior": gone}, silent
    )


def knowledge_cases() -> list[Case]:
    return [
        knowledge_case("no-prior", 5, 3, 7, 11, None),
        knowledge_case("prior", 5, 3, 7, 11, []),
        knowledge_case("some-absent", 5, 3, 7, 11, [0, 4, 10]),
        knowledge_case("nothing-present", 5, 3, 7, 2, [0, 1]),
        knowledge_case("one-concept", 2, 3, 7, 1, None),
        knowledge_case("no-rows", 0, 3, 7, 11, []),
        knowledge_case("one-row", 1, 1, 7, 11, []),
    ]


def graph_case(
    name: str, n: int, source: list[int], target: list[int], relation: list[int] | None = None
) -> Case:
    H, D, E = 3, 7, len(source)
    graph = Graph.from_edges(
        torch.tensor(source, dtype=torch.long),
        torch.tensor(target, dtype=torch.long),
        n,
        None if relation is None else torch.tensor(relation, dtype=torch.long),
    )

    def plain(q: Tensor, k: Tensor, v: Tensor, relation_bias: Tensor | None = None) -> Tensor:
        """Dense over edges: [n, E] with the edges of each node visible."""
        visible = torch.arange(n)[:, None] == torch.tensor(target, dtype=torch.long)
        scores = torch.einsum("nhd,ehd->hne", q, k[source]) * D**-0.5
        if relation_bias is not None:
            scores = scores + relation_bias[:, None, relation]
        if E == 0:
            return (q + k + v) * 0
        scores = scores.masked_fill(~visible, torch.finfo(q.dtype).min)
        return torch.einsum("hne,ehd->nhd", scores.softmax(-1) * visible, v[source])

    def run(q: Tensor, k: Tensor, v: Tensor, relation_bias: Tensor | None = None) -> Tensor:
        return graph_attention(q, k, v, graph, relation_bias=relation_bias)

    tensors = {"q": draw(n, H, D, seed=8), "k": draw(n, H, D, seed=9), "v": draw(n, H, D, seed=10)}
    if relation is not None:
        tensors["relation_bias"] = draw(H, 5, seed=11)
    unread, silent = torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    unread[source], silent[target] = False, False
    return Case("graph_attention", name, tensors, run, plain, {"q": silent, "k": unread, "v": unread}, silent)


def graph_cases() -> list[Case]:
    source, target = [0, 1, 2, 2, 5, 8, 8, 1, 0], [1, 0, 0, 3, 3, 3, 3, 10, 10]
    return [
        graph_case("several-edges", 11, source, target),
        graph_case("relations", 11, source, target, [0, 1, 2, 4, 4, 0, 0, 1, 2]),
        graph_case("nothing-present", 4, [], []),
        graph_case("one-node", 1, [0], [0]),
    ]


CASES = [*masked_cases(), *knowledge_cases(), *graph_cases()]


def backends(op: str) -> list[str]:
    return [backend.name for backend in Op.registry[op].backends]


def pytest_generate_tests(metafunc: Any) -> None:
    """`case` and `backend`: every situation on every backend that its op has; `case` alone: every
    situation."""
    if "case" not in metafunc.fixturenames:
        return
    if "backend" not in metafunc.fixturenames:
        metafunc.parametrize("case", [pytest.param(c, id=f"{c.op}-{c.name}") for c in CASES])
        return
    metafunc.parametrize(
        ("case", "backend"),
        [pytest.param(c, b, id=f"{c.op}-{c.name}-{b}") for c in CASES for b in backends(c.op)],
    )
