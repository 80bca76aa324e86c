"""graph_attention: 98,000 nodes, 400,000 edges, 4 heads of 64; then graphs as they are in the world."""

from __future__ import annotations

import pytest

from benchmarks import graphs
from benchmarks.comparison import not_here
from benchmarks.limits import gather
from benchmarks.peers.graph_attention import MAKERS, Nodes, nodes

H, D = 4, 64
N, E = 98_000, 400_000
IN_THE_PLOT = ("PyG softmax + scatter", "PyG TransformerConv", "ours, native", "ours, triton")


def workload(name: str, edges: graphs.Edges, device: str, dtype) -> Nodes:
    return nodes(name, edges.num_nodes, edges.source, edges.target, H, D, device, dtype)


@pytest.fixture(scope="session")
def tiny(device, dtype) -> Nodes:
    return workload("tiny", graphs.uniform(7, 20), device, dtype)


def limits_of(given: Nodes):
    return gather(given.tensors["k"], given.graph.rowptr, given.graph.col)


def test_graph_attention(bench, tiny, device, dtype):
    given = workload(f"{N:,} nodes, {E:,} edges", graphs.uniform(N, E), device, dtype)
    bench(given, MAKERS, tiny, limits_of(given))


@pytest.mark.parametrize("name", ["ICD-10-CM", "power law", *graphs.FILES])
def test_real_graphs(bench, record, pytestconfig, tiny, device, dtype, name):
    labels = {"curve": "graph", "x": name}
    try:
        if name == "ICD-10-CM":
            edges = graphs.icd10cm()
        elif name == "power law":
            edges = graphs.power_law(N, E)
        else:
            edges = graphs.ontology(name, pytestconfig.getoption("--ontology-dir"))
    except (FileNotFoundError, ImportError) as error:
        record([not_here("graph_attention", name, dtype, str(error)) | labels])
        pytest.skip(f"not here: {error}")
    given = workload(f"{name}, {edges.num_nodes:,} nodes, {len(edges.source):,} edges", edges, device, dtype)
    makers = {name: make for name, make in MAKERS.items() if name in IN_THE_PLOT}
    bench(given, makers, tiny, limits_of(given), share=0.2, training=False, memory=False, **labels)
