from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmdiff.ops import Graph, graph_attention
from tests.ops.refusal import refuses

X = torch.randn(5, 2, 3)
SOURCE, TARGET, RELATION = torch.tensor([0, 1, 4]), torch.tensor([2, 2, 3]), torch.tensor([0, 2, 1])
GRAPH = Graph.from_edges(SOURCE, TARGET, 5, RELATION)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.tensor([0, 5, 4]), TARGET, 5), ValueError,
         r"source\[1\] is 5, expected 0 to 4 \(num_nodes is 5\)"),
        ((SOURCE, torch.tensor([2, 2, -1]), 5), ValueError, r"target\[2\] is -1, expected 0 to 4"),
        ((SOURCE, TARGET[:2], 5), ValueError, r"target must be \[3\] like source, got \[2\]"),
        ((SOURCE.float(), TARGET, 5), TypeError, r"source must be integers, got torch.float32"),
        ((SOURCE[None], TARGET, 5), ValueError, r"source must be \[edges\], got \[1, 3\]"),
        ((SOURCE, TARGET, 5, torch.tensor([0, -3, 0])), ValueError,
         r"relation\[1\] is -3, expected at least 0"),
        ((SOURCE[:0], TARGET[:0], -1), ValueError, r"num_nodes is -1, expected at least 0"),
        ((SOURCE[:1], TARGET[:1], 0), ValueError, r"source\[0\] is 0, expected no edge \(num_nodes is 0\)"),
    ],
)  # fmt: skip
def test_a_graph_names_the_edge_that_is_wrong(args, error, message):
    with pytest.raises(error, match=message):
        Graph.from_edges(*args)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"q": X[0]}, ValueError, r"must share one shape .* got \[2, 3\], \[5, 2, 3\] and \[5, 2, 3\]"),
        ({"v": X[:4]}, ValueError, r"must share one shape"),
        ({"k": X.double()}, TypeError, r"got torch.float32, torch.float64 and torch.float32"),
        ({"q": X[:4], "k": X[:4], "v": X[:4]}, ValueError, r"q has 4 rows, expected .* the graph's 5 nodes"),
        ({"graph": (SOURCE, TARGET)}, TypeError, r"graph is a tuple, expected Graph.from_edges"),
        ({"relation_bias": torch.zeros(3, 3)}, ValueError,
         r"\[heads, relations\] = \[2, relations\], got \[3, 3\]"),
        ({"relation_bias": torch.zeros(2, 3).int()}, TypeError, r"relation_bias must be floating"),
        ({"relation_bias": torch.zeros(2, 2)}, ValueError, r"graph.relation.* 2, expected 0 to 1"),
        ({"q": X.to("meta")}, ValueError, r"k is on cpu, expected meta like q"),
    ],
)  # fmt: skip
def test_the_error_names_argument_value_and_expectation(changed, error, message):
    given = {"q": X, "k": X, "v": X, "graph": GRAPH, **changed}
    refuses("graph_attention", lambda: graph_attention(**given), error, message)


def test_a_bias_needs_relations():
    plain = Graph.from_edges(SOURCE, TARGET, 5)
    with pytest.raises(ValueError, match="the graph has no relations"):
        graph_attention(X, X, X, plain, relation_bias=torch.zeros(2, 3))


def test_the_transpose_holds_the_same_edges():
    rng = np.random.default_rng(0)
    source, target, relation = (rng.integers(0, n, 40) for n in (11, 11, 3))
    graph = Graph.from_edges(source, target, 11, relation)
    rows = torch.arange(11).repeat_interleave(graph.rowptr.diff())
    edges = sorted(zip(graph.col.tolist(), rows.tolist(), graph.relation.tolist(), strict=True))
    assert edges == sorted(zip(source.tolist(), target.tolist(), relation.tolist(), strict=True))
    out_rows = torch.arange(11).repeat_interleave(graph.out_rowptr.diff())
    assert torch.equal(graph.col[graph.out_edge], out_rows)
    assert torch.equal(rows[graph.out_edge], graph.out_target)
