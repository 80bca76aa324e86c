"""knowledge_attention: 64 queries of width 256 and 100,000 concepts; one query, which only reads the
table; and more queries than concepts."""

from __future__ import annotations

import pytest

from benchmarks.limits import bandwidth, matmul
from benchmarks.peers.knowledge_attention import MAKERS, queries
from robustmdiff import explain

N, D = 64, 256
SHAPES = {(N, 100_000): 1.0, (1, 100_000): 0.5, (4096, 1000): 0.5}  # queries, concepts: share of the time
IN_THE_PLOT = ("torch eager, K R made", "torch eager, absorbed", "SDPA, absorbed")


@pytest.fixture(scope="session")
def tiny(device, dtype):
    return queries("tiny", 2, 5, 16, device, dtype)


def limits_of(workload, device, dtype):
    return [*matmul(device, dtype), *bandwidth(workload.tensors["concepts"])]


@pytest.mark.parametrize(("n", "k"), SHAPES, ids=[f"{n}x{k}" for n, k in SHAPES])
def test_knowledge_attention(bench, tiny, device, dtype, n, k):
    name = f"{n:,} {'query' if n == 1 else 'queries'}, {k:,} concepts"
    workload = queries(name, n, k, D, device, dtype)
    chosen = explain("knowledge_attention", **workload.tensors, scale=workload.scale).chosen
    limits = limits_of(workload, device, dtype)
    bench(workload, MAKERS, tiny, limits, share=SHAPES[n, k], chosen=chosen)


@pytest.mark.parametrize("k", [10**2, 10**3, 10**4, 10**5, 10**6])
def test_time_and_memory_follow_the_concepts(bench, tiny, device, dtype, k):
    workload = queries(f"{N} queries, {k:,} concepts", N, k, D, device, dtype)
    makers = {name: make for name, make in MAKERS.items() if name in IN_THE_PLOT or name.startswith("ours")}
    limits = limits_of(workload, device, dtype)
    bench(workload, makers, tiny, limits, share=0.2, training=False, curve="concepts", x=k)
