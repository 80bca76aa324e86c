"""What the C++ graph attention promises beyond its values: bits, memory, machines and broken graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff import explain, use_backend
from robustmdiff.ops import Graph, graph_attention
from robustmdiff.ops.graph_attention import OP, native
from robustmdiff.ops.registration import NOTHING

NARROW = [torch.bfloat16, torch.float16]


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def skewed(n=3000, edges=20_000, hub=5000, relations=5) -> Graph:
    """Power-law sources and targets, two nodes with a huge row each way, isolated nodes at the end."""
    g = torch.Generator().manual_seed(7)
    source, target = ((torch.rand(edges, generator=g) ** 3 * (n - 10)).long() for _ in "st")
    spread = torch.randint(n - 10, (hub,), generator=g)
    one, other = torch.full_like(spread, 11), torch.full_like(spread[: hub // 3], 12)
    source = torch.cat([source, spread, one, spread[: hub // 3]])
    target = torch.cat([target, one, spread, other])
    return Graph.from_edges(source, target, n, torch.randint(relations, source.shape, generator=g))


def gradients(graph, q, k, v, bias, grad):
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v, bias) if x is not None]
    with use_backend(graph_attention="native"):
        out = graph_attention(*leaves[:3], graph, relation_bias=None if bias is None else leaves[3])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def exact(graph, q, k, v, bias, grad):
    """The definition in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v, bias) if x is not None]
    with use_backend(graph_attention="definition"):
        out = graph_attention(*leaves[:3], graph, relation_bias=None if bias is None else leaves[3])
    found = torch.autograd.grad(out, leaves, grad.double(), allow_unused=True) if out.requires_grad else []
    zeros = [torch.zeros_like(x) for x in leaves]
    return [out.detach(), *(z if x is None else x for x, z in zip(found or zeros, zeros, strict=True))]


def torch_says(graph, q, k, v, bias, grad, dtype=None):
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in (q, k, v, bias) if x is not None]
    with use_backend(graph_attention="torch"):
        out = graph_attention(*leaves[:3], graph, relation_bias=None if bias is None else leaves[3])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def compare(ours, plain, truth, terms):
    """At most 2x (gradients 3x) the error of torch, plus a rounding of the largest term summed."""
    for i, (x, y, z) in enumerate(zip(ours, plain, truth, strict=True)):
        if not x.numel():
            continue
        error, theirs = ((a.double() - z).abs().max() for a in (x, y))
        assert error <= (3 if i else 2) * (theirs + torch.finfo(x.dtype).eps * terms[min(i, 1)]), i


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW], ids=str)
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 7), (2, 16), (4, 64), (1, 83), (5, 33)])
def test_every_instruction_set_is_as_exact_as_torch(isa, heads, width, dtype):
    g = torch.Generator().manual_seed(1)
    source, target = torch.randint(40, (2, 300), generator=g)
    graph = Graph.from_edges(source, target, 45, torch.randint(4, (300,), generator=g))
    q, k, v, grad = (draw(45, heads, width, seed=i, dtype=dtype) for i in range(4))
    args = graph, q, k, v, draw(heads, 4, seed=5), grad
    largest = max(float(x.abs().max()) for x in (q, k, v))
    compare(
        gradients(*args), torch_says(*args), exact(*args), (largest, 60 * largest * float(grad.abs().max()))
    )


def test_a_row_of_50_000_edges_is_as_exact_as_torch_and_shared_by_threads(threads):
    graph = skewed(hub=50_000)
    assert graph.rowptr.diff().max() >= 50_000
    assert graph.out_rowptr.diff().max() >= 50_000
    q, k, v, grad = (draw(3000, 2, 20, seed=i) for i in range(4))
    args = graph, q, k, v, draw(2, 5, seed=5), grad
    found = []
    for n in (1, 2, 3, 8):
        threads(n)
        found.append(gradients(*args))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    threads(1)
    compare(found[0], torch_says(*args), torch_says(*args, torch.float64), (5, 25))


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(isa, threads, dtype):
    graph = skewed()
    q, k, v, grad = (draw(3000, 2, 20, seed=i, dtype=dtype) for i in range(4))
    args = graph, q, k, v, draw(2, 5, seed=5), grad
    found = []
    for n in (1, 2, 3, 8, 1):
        threads(n)
        found.append(gradients(*args))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    threads(1)
    compare(found[0], torch_says(*args), torch_says(*args, torch.float64), (5, 50))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_results_are_the_small_ones(isa, dtype):
    """Past 32 MB results are written past the caches: the same bits as two halves, which are not."""
    n, heads, width = 100_000, 2, 64 if dtype == torch.float32 else 128
    g = torch.Generator().manual_seed(2)
    source, target = torch.randint(n // 2, (2, n // 2), generator=g)
    half, both = Graph.from_edges(source, target, n // 2), torch.tensor([[0], [n // 2]])
    whole = Graph.from_edges((source + both).flatten(), (target + both).flatten(), n)
    q, k, v, grad = (draw(n, heads, width, seed=i, dtype=dtype) for i in range(4))
    together = gradients(whole, q, k, v, None, grad)
    for part in (slice(0, n // 2), slice(n // 2, n)):
        alone = gradients(half, q[part], k[part], v[part], None, grad[part])
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[part], b)


def test_a_node_does_not_depend_on_the_rest_of_the_graph():
    """The in-edges of one node alone, and in the middle of a graph: the same bits."""
    graph = skewed()
    q, k, v = (draw(3000, 2, 20, seed=i) for i in range(3))
    with use_backend(graph_attention="native"):
        together = graph_attention(q, k, v, graph)
        for node in (0, 11, 12, 500):
            edges = slice(int(graph.rowptr[node]), int(graph.rowptr[node + 1]))
            source = graph.col[edges]
            alone = Graph.from_edges(source, torch.full_like(source, node), 3000)
            assert torch.equal(graph_attention(q, k, v, alone)[node], together[node])


@pytest.mark.parametrize("width", [20, 64])
def test_what_no_edge_reads_may_be_nan(isa, width):
    graph = skewed()
    q, k, v, grad = (draw(3000, 2, width, seed=i) for i in range(4))
    clean = gradients(graph, q, k, v, None, grad)
    silent = graph.rowptr.diff() == 0
    unread = graph.out_rowptr.diff() == 0
    assert silent[-10:].all()
    assert unread[-10:].all()
    for x, rows in ((q, silent), (grad, silent), (k, unread), (v, unread)):
        x[rows] = torch.nan
    for a, b in zip(clean, gradients(graph, q, k, v, None, grad), strict=True):
        assert torch.equal(a, b)
    out, dq, dk, dv = clean
    assert (out[silent] == 0).all()
    assert (dq[silent] == 0).all()
    assert (dk[unread] == 0).all()
    assert (dv[unread] == 0).all()


def test_memory_around_the_tensors_is_never_used(isa):
    """Views into larger buffers of NaN: odd widths end where their row ends."""
    graph = Graph.from_edges(torch.tensor([0, 1, 4, 4]), torch.tensor([1, 4, 4, 0]), 5)
    values = [draw(5, 3, 13, seed=i) for i in range(4)]
    plain = gradients(graph, *values[:3], None, values[3])
    surrounded = []
    for x in values:
        buffer = torch.full((x.numel() + 64,), torch.nan)
        surrounded.append(buffer[32:-32].view(x.shape).copy_(x))
    again = gradients(graph, *surrounded[:3], None, surrounded[3])
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_self_loops_and_repeated_edges_each_count():
    x = draw(2, 1, 8)
    twice = Graph.from_edges(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), 2)
    with use_backend(graph_attention="native"):
        out = graph_attention(x, x, x, twice)
    p = torch.tensor([1.0, 1.0, 0.0])
    p = torch.einsum("d,ed->e", x[0, 0].double(), x[[0, 0, 1], 0].double()).mul(8**-0.5).softmax(0)
    expected = (p[0] + p[1]) * x[0, 0].double() + p[2] * x[1, 0].double()
    torch.testing.assert_close(out[0, 0].double(), expected, rtol=1e-5, atol=1e-6)
    assert (out[1] == 0).all()


def test_lse_and_the_sentinel(isa):
    graph = Graph.from_edges(torch.tensor([0, 1]), torch.tensor([1, 1]), 3)
    q, k, v = (draw(3, 2, 9, seed=i) for i in range(3))
    _, lse = native.run(OP.arguments(q, k, v, graph))
    expected = (torch.einsum("hd,ehd->he", q[1], k[:2]) / 3).logsumexp(1)
    torch.testing.assert_close(lse[1], expected)
    assert (lse[[0, 2]] == NOTHING).all()


def test_a_relation_may_be_closed_and_scores_may_be_far_apart(isa):
    graph = Graph.from_edges(torch.tensor([0, 1, 0]), torch.tensor([2, 2, 1]), 3, torch.tensor([0, 1, 1]))
    q, k, v = (draw(3, 2, 16, seed=i) for i in range(3))
    bias = torch.tensor([[0.0, -torch.inf], [-3e4, 3e4]])
    with use_backend(graph_attention="native"):
        out = graph_attention(q, k, v, graph, relation_bias=bias)
    assert torch.equal(out[2, 0], v[0, 0])  # the other edge has weight 0, exactly
    assert torch.equal(out[2, 1], v[1, 1])
    assert (out[1, 0] == 0).all()


def test_nan_is_passed_on_not_hidden(isa):
    graph = Graph.from_edges(torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 1, 0]), 3)
    q, k, v = (draw(3, 2, 16, seed=i) for i in range(3))
    k[0, 1, 3] = torch.nan
    out, _ = native.run(OP.arguments(q, k, v, graph))
    assert out[1, 1].isnan().all()
    assert not out[1, 0].isnan().any()
    assert not out[0].isnan().any()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_graph(data):
    n = data.draw(st.integers(1, 9))
    nodes = st.integers(0, n - 1)
    edges = data.draw(st.lists(st.tuples(nodes, nodes, st.integers(0, 2)), max_size=40))
    source, target, relation = torch.tensor(edges, dtype=torch.long).reshape(-1, 3).unbind(1)
    graph = Graph.from_edges(source, target, n, relation)
    heads, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40))
    q, k, v, grad = (draw(n, heads, width, seed=i) for i in range(4))
    bias = draw(heads, 3, seed=4) if data.draw(st.booleans()) else None
    args = graph, q, k, v, bias, grad
    for ours, truth in zip(gradients(*args), exact(*args), strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(0, 2, 4), (3, 0, 4), (3, 2, 4)])
def test_nothing_at_all(shape):
    none, pointers = torch.empty(0, dtype=torch.long), torch.zeros(shape[0] + 1, dtype=torch.long)
    graph = Graph(pointers, none, none, pointers, none, none)
    x = torch.full(shape, torch.nan)
    out, *grads = gradients(graph, x, x, x, torch.zeros(shape[1], 3), x)
    for found in (out, *grads):
        assert (found == 0).all()
    assert out.shape == shape


GRAPH = Graph.from_edges(torch.tensor([0, 1, 4]), torch.tensor([2, 2, 3]), 5, torch.tensor([0, 2, 1]))
INTS = torch.tensor


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"col": INTS([0, 5, 4])}, r"graph.col\[1\] is 5, expected 0 to 4"),
        ({"col": INTS([0, 1, -(2**62)])}, r"graph.col\[2\] is -4611686018427387904, expected 0 to 4"),
        ({"col": INTS([0, 1])}, r"graph.relation has shape \[3\], expected \[2\]"),
        ({"col": INTS([[0], [1], [4]])}, r"graph.col has shape \[3, 1\], expected \[edges\]"),
        ({"col": INTS([0, 1, 4]).int()}, r"graph.col has dtype code 3, expected 4"),
        ({"rowptr": INTS([0, 0, 2, 1, 3, 3])}, r"graph.rowptr\[3\] is 1, expected 2 to 3"),
        ({"rowptr": INTS([0, 0, 0, 9, 3, 3])}, r"graph.rowptr\[3\] is 9, expected 0 to 3"),
        ({"rowptr": INTS([1, 1, 1, 2, 3, 3])}, r"graph.rowptr\[0\] is 1, expected 0"),
        ({"rowptr": INTS([0, 0, 0, 2, 2, 2])}, r"graph.rowptr\[5\] is 2, expected 3"),
        ({"relation": INTS([0, 1, 3])}, r"graph.relation\[2\] is 3, expected 0 to 2"),
        ({"relation": INTS([0, -1, 1])}, r"graph.relation\[1\] is -1, expected 0 to 2"),
        ({"relation": INTS([0, 1])}, r"graph.relation has shape \[2\], expected \[3\]"),
        ({"out_rowptr": INTS([0, 4, 0, 0, 0, 3])}, r"graph.out_rowptr\[1\] is 4, expected 0 to 3"),
        ({"out_rowptr": INTS([0, 3])}, r"graph.out_rowptr has shape \[2\], expected \[6\]"),
        ({"out_target": INTS([2, 2, 7])}, r"graph.out_target\[2\] is 7, expected 0 to 4"),
        ({"out_edge": INTS([0, 1, 3])}, r"graph.out_edge\[2\] is 3, expected 0 to 2"),
    ],
)  # fmt: skip
def test_a_broken_graph_is_an_error_before_memory_is_touched(broken, message):
    """A Graph put together by hand; Graph.from_edges never makes one of these."""
    x, bias = draw(5, 2, 3).requires_grad_(), torch.zeros(2, 3)
    with use_backend(graph_attention="native"), pytest.raises((ValueError, RuntimeError), match=message):
        graph_attention(x, x, x, GRAPH._replace(**broken), relation_bias=bias).sum().backward()


def test_what_the_operator_itself_refuses():
    x = draw(5, 2, 3)
    with pytest.raises(RuntimeError, match="k has dtype code 15"):
        native.forward_op(x, x.bfloat16(), x, *GRAPH, None)
    with pytest.raises(RuntimeError, match=r"relation_bias has dtype code 7, expected 6"):
        native.forward_op(x, x, x, *GRAPH, torch.zeros(2, 3).double())
    with pytest.raises(RuntimeError, match=r"relation_bias has shape \[3, 3\], expected \[2, 3\]"):
        native.forward_op(x, x, x, *GRAPH, torch.zeros(3, 3))
    out, lse = native.forward_op(x, x, x, *GRAPH, None)
    with pytest.raises(RuntimeError, match=r"grad_out has shape \[4, 2, 3\], expected \[5, 2, 3\]"):
        native.backward_op(x[:4], out, lse, x, x, x, *GRAPH, None)


def test_operators_pass_opcheck():
    x, bias = draw(5, 2, 7), draw(2, 3)
    for dtype in (torch.float32, torch.bfloat16):
        for last in (None, bias):
            args = (*x.to(dtype).expand(3, -1, -1, -1).clone(), *GRAPH, last)
            torch.library.opcheck(native.forward_op, args)
            out, lse = native.forward_op(*args)
            torch.library.opcheck(native.backward_op, (torch.ones_like(out), out, lse, *args))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_bias_keeps_its_dtype(dtype):
    x, bias = draw(5, 2, 7), draw(2, 3, dtype=dtype).requires_grad_()
    with use_backend(graph_attention="native"):
        graph_attention(x, x, x, GRAPH, relation_bias=bias).sum().backward()
    assert bias.grad.dtype == dtype


def test_compiles_whole():
    x = [draw(5, 2, 7, seed=i).requires_grad_() for i in range(3)]
    bias = draw(2, 3).requires_grad_()

    def loss(*x):
        return graph_attention(*x[:3], GRAPH, relation_bias=x[3]).square().sum()

    with use_backend(graph_attention="native"):
        expected = torch.autograd.grad(loss(*x, bias), (*x, bias))
        compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(*x, bias), (*x, bias))
        by_func = torch.func.grad(loss, (0, 1, 2, 3))(*(y.detach() for y in (*x, bias)))
    for a, b, c in zip(expected, found, by_func, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_auto_takes_it_for_what_it_can():
    x = draw(5, 2, 3)
    assert explain("graph_attention", x, x, x, GRAPH).chosen == "native"
    y = x.double()
    assert "float64" in explain("graph_attention", y, y, y, GRAPH).declined["native"][0]
    assert OP.backends[0].name == "native"
