"""knowledge_attention and its peers, the relevance matrix R included: softmax(q (K R)^T) K.

Eager code in models makes K R; folding R into the query ("absorbed") is the better formula, and
what the op expects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks.candidates import BACKWARD, FORWARD, TRAINING, Candidate, Workload
from benchmarks.limits import BYTES, FLOPS
from benchmarks.peers.ours import backends
from robustmdiff.ops import knowledge_attention
from robustmdiff.testing import draw
from robustmdiff.testing.cases.knowledge_attention import knowledge_case


@dataclass(frozen=True)
class Queries(Workload):
    relevance: Tensor  # [d, d]
    scale: float


def queries(name: str, N: int, k: int, d: int, device: str, dtype: torch.dtype) -> Queries:
    scale = d**-0.5
    case = knowledge_case(name, N, 1, d, k, None, scale)
    relevance = (draw(d, d, seed=20) / d**0.5).to(device, dtype)

    def exact(q: Tensor, concepts: Tensor) -> Tensor:
        return case.plain(q @ relevance.to(q.dtype).T, concepts)

    flops, table = 4.0 * N * k * d, float(k * d * dtype.itemsize)
    return Queries(
        "knowledge_attention",
        name,
        {n: x.to(device, dtype) for n, x in case.tensors.items()},
        exact,
        {  # two products forward; backward makes the scores again and has four more
            FORWARD: {FLOPS: flops, BYTES: table},
            BACKWARD: {FLOPS: 2.5 * flops, BYTES: 2 * table},
            TRAINING: {FLOPS: 3.5 * flops, BYTES: 3 * table},
        },
        relevance,
        scale,
    )


def ours(given: Queries) -> Callable[..., Tensor]:
    return lambda q, concepts: knowledge_attention(q @ given.relevance.T, concepts, scale=given.scale)


def eager(given: Queries) -> Candidate:
    def keys(q: Tensor, concepts: Tensor) -> Tensor:
        return concepts @ given.relevance

    def run(keys: Tensor, q: Tensor, concepts: Tensor) -> Tensor:
        return ((q @ keys.T) * given.scale).softmax(-1) @ concepts

    return Candidate("torch eager, K R made", run, keys)


def _absorbed(given: Queries) -> Callable[..., Tensor]:
    def run(_: None, q: Tensor, concepts: Tensor) -> Tensor:
        return ((q @ given.relevance.T) @ concepts.T * given.scale).softmax(-1) @ concepts

    return run


def absorbed(given: Queries) -> Candidate:
    return Candidate("torch eager, absorbed", _absorbed(given))


def compiled(given: Queries) -> Candidate:
    return Candidate("torch.compile, absorbed", torch.compile(_absorbed(given), dynamic=False))


def sdpa_absorbed(given: Queries) -> Candidate:
    def run(_: None, q: Tensor, concepts: Tensor) -> Tensor:
        rows = (q @ given.relevance.T).transpose(0, 1)[None]  # [1, heads, N, d]
        table = concepts[None, None]
        return sdpa(rows, table, table, scale=given.scale)[0].transpose(0, 1)

    return Candidate("SDPA, absorbed", run)


def sdpa_materialised(given: Queries) -> Candidate:
    def keys(q: Tensor, concepts: Tensor) -> Tensor:
        return (concepts @ given.relevance)[None, None]

    def run(keys: Tensor, q: Tensor, concepts: Tensor) -> Tensor:
        return sdpa(q.transpose(0, 1)[None], keys, concepts[None, None], scale=given.scale)[0].transpose(0, 1)

    return Candidate("SDPA, K R made", run, keys)


MAKERS: dict[str, Callable[[Queries], Candidate]] = {
    "torch eager, K R made": eager,
    "torch eager, absorbed": absorbed,
    "torch.compile, absorbed": compiled,
    "SDPA, K R made": sdpa_materialised,
    "SDPA, absorbed": sdpa_absorbed,
    **backends("knowledge_attention", ours, {}),
}
