"""What the contract tests do not reach: long rows, their pieces, where a row stands, many relations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff import explain, use_backend
from robustmdiff.kernels import graph_attention as kernels
from robustmdiff.ops import Graph, graph_attention
from robustmdiff.ops.graph_attention import triton_backend

CHECKS = "test_schema", "test_faketensor"  # the rest, of the same schemas, in tests/ops


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def split(monkeypatch) -> int:
    """Rows are long from here on, so that small graphs have some."""
    monkeypatch.setattr(kernels, "SPLIT", 8)
    return kernels.SPLIT


def integers(generator: torch.Generator, end: int, *shape: int) -> Tensor:
    return torch.randint(end, shape, generator=generator)


def skewed(nodes: int, edges: int, relations: int, seed: int) -> Graph:
    """Two targets have a third of the in-edges each, two sources of the out-edges; some nodes have none."""
    generator = torch.Generator().manual_seed(seed)
    source, target = integers(generator, nodes, 2, edges)
    hub = integers(generator, nodes, 4)
    third = edges // 3
    target[:third], target[third : 2 * third] = hub[0], hub[1]
    order = torch.randperm(edges, generator=generator)
    source[order[:third]], source[order[third : 2 * third]] = hub[2], hub[3]
    return Graph.from_edges(source, target, nodes, integers(generator, relations, edges))


def inputs(graph: Graph, heads: int, width: int, relations: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = graph.num_nodes, heads, width
    found = {name: torch.randn(shape, generator=generator).to(dtype) for name in ("q", "k", "v", "grad")}
    return found | {"relation_bias": torch.randn(heads, relations, generator=generator)}


def results(graph: Graph, x: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    leaves = {name: x[name].clone().requires_grad_() for name in ("q", "k", "v", "relation_bias")}
    with use_backend(graph_attention=backend):
        out = graph_attention(
            leaves["q"], leaves["k"], leaves["v"], graph, relation_bias=leaves["relation_bias"]
        )
    grads = torch.autograd.grad(out, list(leaves.values()), x["grad"])
    return {"out": out.detach()} | {f"d{n}": g for n, g in zip(leaves, grads, strict=True)}


def as_exact_as_torch(graph: Graph, x: dict[str, Tensor]) -> None:
    ours, plain = results(graph, x, "triton"), results(graph, x, "torch")
    exact = results(graph, {name: value.double() for name, value in x.items()}, "torch")
    for name, c in exact.items():
        factor, rounding = 2 if name == "out" else 3, torch.finfo(plain[name].dtype).eps
        budget = factor * ((plain[name] - c).abs().max() + rounding * c.abs().max())
        assert (ours[name] - c).abs().max() <= budget, name


@pytest.mark.parametrize("seed", range(2))
def test_rows_in_pieces_are_as_exact_as_torch(split, seed):
    graph = skewed(23, 131 + 17 * seed, 3, seed)
    assert graph.rowptr.diff().max() > 2 * split
    as_exact_as_torch(graph, inputs(graph, 1, 5, 3, torch.float32))


@pytest.mark.parametrize("width", [32, 40, 256])
def test_widths(width):
    graph = skewed(9, 40, 2, width)
    as_exact_as_torch(graph, inputs(graph, 1, width, 2, torch.float16))


def test_more_edges_than_a_piece_holds():
    """At the size that ships."""
    graph = skewed(5, 3 * kernels.SPLIT + 7, 2, 1)
    as_exact_as_torch(graph, inputs(graph, 1, 4, 2, torch.float32))


def test_more_relations_than_one_program_sums():
    graph = skewed(20, 60, 70, 4)
    as_exact_as_torch(graph, inputs(graph, 1, 4, 70, torch.float32))


def test_where_a_row_stands_changes_no_bit(split):
    """The same nodes alone, and behind others: the pieces of a row are counted from its own start."""
    alone = skewed(11, 90, 2, 5)
    others, edges = 7, 29
    generator = torch.Generator().manual_seed(6)
    source, target = integers(generator, others, 2, edges)
    targets = torch.repeat_interleave(torch.arange(11), alone.rowptr.diff())
    behind = Graph.from_edges(
        torch.cat((source, alone.col + others)),
        torch.cat((target, targets + others)),
        others + 11,
        torch.cat((torch.zeros_like(source), alone.relation)),
    )
    x = inputs(behind, 1, 6, 2, torch.float32)
    own = {name: value if name == "relation_bias" else value[others:] for name, value in x.items()}
    together, apart = results(behind, x, "triton"), results(alone, own, "triton")
    for name in ("out", "dq", "dk", "dv"):
        assert torch.equal(together[name][others:], apart[name]), name


def test_a_graph_made_by_hand_is_checked_before_it_is_read():
    graph = skewed(5, 12, 2, 0)
    x = inputs(graph, 1, 4, 2, torch.float32)
    for name, value, message in (
        ("rowptr", graph.rowptr.int(), r"graph.rowptr is torch.int32 \[6\] on cpu, .* torch.int64 \[6\]"),
        ("relation", graph.relation[:3], r"graph.relation is torch.int64 \[3\] on cpu, .* \[12\]"),
        ("relation", graph.relation + 7, "graph.relation holds [78], expected 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            results(graph._replace(**{name: value}), x, "triton")


def test_what_it_declines():
    graph = skewed(5, 12, 2, 0)
    wide, double = torch.zeros(5, 1, 257), torch.zeros(5, 1, 8, dtype=torch.float64)
    assert "the width is 257" in str(explain("graph_attention", wide, wide, wide, graph))
    assert "float64" in str(explain("graph_attention", double, double, double, graph))


def test_operators_pass_opcheck():
    graph = skewed(5, 12, 2, 0)
    x = inputs(graph, 2, 4, 2, torch.float32)
    args = x["q"], x["k"], x["v"], *graph, x["relation_bias"]
    torch.library.opcheck(triton_backend.forward_op, args, test_utils=CHECKS)
    out, lse = triton_backend.forward_op(*args)
    torch.library.opcheck(triton_backend.backward_op, (x["grad"], out, lse, *args), test_utils=CHECKS)
