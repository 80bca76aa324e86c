"""knowledge_attention: 64 queries of width 256 and 100,000 concepts."""

from __future__ import annotations

import pytest

from benchmarks.limits import bandwidth, matmul
from benchmarks.peers.knowledge_attention import MAKERS, queries

N, D = 64, 256
IN_THE_PLOT = ("torch eager, K R made", "torch eager, absorbed", "SDPA, absorbed")


@pytest.fixture(scope="session")
def tiny(device, dtype):
    return queries("tiny", 2, 5, 16, device, dtype)


def limits_of(workload, device, dtype):
    return [*matmul(device, dtype), *bandwidth(workload.tensors["concepts"])]


def test_knowledge_attention(bench, tiny, device, dtype):
    workload = queries(f"{N} queries, 100,000 concepts", N, 100_000, D, device, dtype)
    bench(workload, MAKERS, tiny, limits_of(workload, device, dtype))


@pytest.mark.parametrize("k", [10**2, 10**3, 10**4, 10**5, 10**6])
def test_time_and_memory_follow_the_concepts(bench, tiny, device, dtype, k):
    workload = queries(f"{N} queries, {k:,} concepts", N, k, D, device, dtype)
    makers = {name: make for name, make in MAKERS.items() if name in IN_THE_PLOT or name.startswith("ours")}
    limits = limits_of(workload, device, dtype)
    bench(workload, makers, tiny, limits, share=0.2, training=False, curve="concepts", x=k)
