"""What the C++ knowledge attention promises beyond its values: bits, memory and machines."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustmdiff import explain, use_backend
from robustmdiff.ops import knowledge_attention, knowledge_top
from robustmdiff.ops.knowledge_attention import TOP, definition, native
from robustmdiff.ops.registration import NOTHING

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(N: int, H: int, k: int, d: int, *, absent: float = 0.0, seed: int = 0) -> tuple[Tensor, ...]:
    """q, concepts, log_prior with a share of the concepts absent, grad_out."""
    prior = draw(k, seed=seed + 2)
    prior[torch.rand(k, generator=torch.Generator().manual_seed(seed + 3)) < absent] = -torch.inf
    return draw(N, H, d, seed=seed), draw(k, d, seed=seed + 1), prior, draw(N, H, d, seed=seed + 4)


def run(q: Tensor, concepts: Tensor, prior: Tensor | None, g: Tensor, scale: float = 0.3) -> list[Tensor]:
    """Output, log-sum-exp, and the gradients of q, concepts and log_prior."""
    out, lse = native.forward_op(q, concepts, prior, scale)
    return [out, lse, *native.backward_op(g, out, lse, q, concepts, prior, scale)]


def dense(q: Tensor, concepts: Tensor, prior: Tensor | None, g: Tensor, scale: float = 0.3) -> list[Tensor]:
    """The same in plain torch, everything in the dtype of q."""
    leaves = [x.detach().to(q.dtype).requires_grad_() for x in (q, concepts, prior) if x is not None]
    scores = torch.einsum("nhd,kd->nhk", *leaves[:2]) * scale
    gone = torch.zeros(len(concepts), dtype=torch.bool)
    if prior is not None:
        gone = prior == -torch.inf
        scores = (scores + leaves[2]).masked_fill(gone, torch.finfo(q.dtype).min)
    out = torch.einsum("nhk,kd->nhd", scores.softmax(-1) * ~gone, leaves[1])
    lse = torch.full(q.shape[:2], NOTHING) if gone.all() else scores.logsumexp(-1)
    grads = torch.autograd.grad(out, leaves, g)
    return [x.detach() for x in (out, lse, *grads)] + ([q.new_zeros(0)] if prior is None else [])


NAMES = ("out", "lse", "dq", "dconcepts", "dlog_prior")


def as_exact_as_torch(
    q: Tensor, concepts: Tensor, prior: Tensor | None, g: Tensor, scale: float = 0.3
) -> None:
    """At most twice (gradients three times) the error of plain torch in the same dtype, plus one
    rounding of the largest term, or sum over rows, that others are added to. A gradient has the rounding
    of the scores in it as well: a weight is off by as many times its eps as the score is large."""
    inputs = (q, concepts, prior, g)
    ours, plain = run(*inputs, scale=scale), dense(*inputs, scale=scale)
    exact = dense(*(None if x is None else x.double() for x in inputs), scale=scale)
    # the largest number of which others are subtracted: an entry of q or K, or a product grad . K
    products = torch.einsum("nhd,kd->nhk", g.double(), concepts.double())
    terms = max((float(x.abs().max()) for x in (q, concepts, products) if x.numel()), default=0.0)
    scores = torch.einsum("nhd,kd->nhk", q.double(), concepts.double()) * scale
    steep = max(1.0, float(scores.abs().max())) if scores.numel() else 1.0
    sums = float(g.double().cumsum(0).abs().max()) if g.numel() else 0.0  # one row of queries after the other
    for name, x, y, z in zip(NAMES, ours, plain, exact, strict=True):
        assert x.shape == z.shape, name
        assert x.isfinite().all(), name
        if x.numel():
            error, theirs = (float((e.double() - z).abs().max()) for e in (x, y))
            rounding = torch.finfo(q.dtype).eps * (max(terms, sums) if name == "dconcepts" else terms)
            if name.startswith("d"):
                rounding *= steep
            budget = (2 if name in ("out", "lse") else 3) * (theirs + rounding)
            assert error <= budget, f"{name}: {error:.1e} > {budget:.1e}"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("d", [1, 5, 16, 97])
@pytest.mark.parametrize("k", [1, 6, 95, 97, 700])
@pytest.mark.parametrize("N", [1, 17, 67])
def test_tails_in_rows_concepts_and_width(isa, N, k, d):
    as_exact_as_torch(*problem(N, 1, k, d, absent=0.2), scale=d**-0.5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_dtype_on_every_instruction_set(isa, dtype):
    as_exact_as_torch(*(x.to(dtype) for x in problem(9, 3, 300, 37, absent=0.2)))


def test_a_width_that_is_summed_in_pieces(isa):
    as_exact_as_torch(*problem(3, 2, 50, 1100), scale=1100**-0.5)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 70),
    st.integers(1, 3),
    st.integers(1, 450),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    st.sampled_from(FLOATS),
    st.booleans(),
)
def test_any_shape(N, H, k, d, absent, dtype, with_prior):
    q, concepts, prior, g = problem(N, H, k, d, absent=absent)
    q, concepts, g = q.to(dtype), concepts.to(dtype), g.to(dtype)
    as_exact_as_torch(q, concepts, prior if with_prior else None, g, scale=d**-0.5)


def test_a_large_table_is_as_exact_as_torch():
    as_exact_as_torch(*problem(5, 2, 50_000, 24, absent=0.1), scale=24**-0.5)


@pytest.mark.parametrize("prior_dtype", [*FLOATS, torch.float64], ids=str)
def test_the_prior_has_a_dtype_of_its_own(prior_dtype):
    q, concepts, prior, g = problem(4, 2, 50, 8, absent=0.3)
    prior = prior.to(prior_dtype)
    found = run(q, concepts, prior, g)
    same = run(q, concepts, prior.float(), g)
    assert found[4].dtype == prior_dtype
    assert torch.equal(found[4], same[4].to(prior_dtype))
    assert all(torch.equal(x, y) for x, y in zip(found[:4], same[:4], strict=True))


@pytest.mark.parametrize(("k", "d"), [(1, 7), (97, 40), (1003, 257)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_few_rows_have_the_bits_that_they_have_among_many(isa, rows, k, d):
    q, concepts, prior, g = problem(70, 1, k, d, absent=0.1)
    many = run(q, concepts, prior, g)
    few = run(q[7 : 7 + rows], concepts, prior, g[7 : 7 + rows])
    for name, x, y in zip(NAMES, few, many, strict=True):
        if name in ("out", "lse", "dq"):
            assert torch.equal(x, y[7 : 7 + rows]), name


@pytest.mark.parametrize(("N", "k"), [(5, 3000), (200, 700), (700, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(isa, threads, N, k, dtype):
    inputs = [x.to(dtype) for x in problem(N, 2, k, 19, absent=0.1)]
    found = []
    for n in (1, 2, 3, 8):
        threads(n)
        found.append([*run(*inputs), *native.top_op(*inputs[:3], 0.3, 7)])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_a_row_does_not_depend_on_its_batch_mates(isa):
    q, concepts, prior, g = problem(150, 1, 1000, 21, absent=0.1)
    out, lse, dq, *_ = run(q, concepts, prior, g)
    index, weight = native.top_op(q, concepts, prior, 0.3, 5)
    for rows in ([0], [149], [64, 3], list(range(50, 117)), list(range(149, -1, -1))):
        alone = run(q[rows], concepts, prior, g[rows])
        for x, y in zip(alone, (out, lse, dq), strict=False):
            assert torch.equal(x, y[rows])
        alone_index, alone_weight = native.top_op(q[rows], concepts, prior, 0.3, 5)
        assert torch.equal(alone_index, index[rows])
        assert torch.equal(alone_weight, weight[rows])


def test_batch_mates_that_are_nan_stay_alone(isa):
    q, concepts, prior, g = problem(20, 1, 300, 9)
    clean = run(q, concepts, prior, g)
    q[7] = torch.nan
    out, lse, dq, *_ = run(q, concepts, prior, g)
    others = [r for r in range(20) if r != 7]
    for x, y in ((out, clean[0]), (lse, clean[1]), (dq, clean[2])):
        assert x[7].isnan().all()
        assert torch.equal(x[others], y[others])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_absent_concepts_are_never_read(isa, dtype):
    q, concepts, prior, g = problem(30, 2, 900, 13, absent=0.5)
    prior[100:400] = -torch.inf  # whole chunks among them
    q, concepts, g = q.to(dtype), concepts.to(dtype), g.to(dtype)
    poisoned = concepts.clone()
    poisoned[prior == -torch.inf] = torch.nan
    found, same = run(q, concepts, prior, g), run(q, poisoned, prior, g)
    assert all(torch.equal(x, y) for x, y in zip(found, same, strict=True))
    assert (found[3][prior == -torch.inf] == 0).all()
    for x, y in zip(
        native.top_op(q, concepts, prior, 0.3, 9), native.top_op(q, poisoned, prior, 0.3, 9), strict=True
    ):
        assert torch.equal(x, y)


def test_memory_around_the_tensors_is_never_read(isa):
    """Views into larger buffers full of NaN."""

    def surrounded(x: Tensor) -> Tensor:
        buffer = torch.full((x.numel() + 129,), torch.nan)
        view = buffer[65 : 65 + x.numel()].view(x.shape)
        view.copy_(x)
        return view

    inputs = problem(19, 1, 205, 11, absent=0.1)
    found, same = run(*inputs), run(*map(surrounded, inputs))
    assert all(torch.equal(x, y) for x, y in zip(found, same, strict=True))


def test_nothing_present(isa):
    q, concepts, prior, g = problem(5, 2, 300, 7, absent=1.0)
    concepts.fill_(torch.nan)
    g.fill_(torch.nan)
    out, lse, *grads = run(q, concepts, prior, g)
    assert (lse == NOTHING).all()
    assert all((x == 0).all() for x in (out, *grads))


def test_no_rows(isa):
    out, lse, dq, dconcepts, dprior = run(*problem(0, 3, 40, 5))
    assert (out.shape, lse.shape, dq.shape) == ((0, 3, 5), (0, 3), (0, 3, 5))
    assert (dconcepts == 0).all()
    assert (dprior == 0).all()


def test_scores_far_apart_neither_overflow_nor_vanish(isa):
    many, concepts, _, g = problem(60, 1, 500, 8)  # of a few rows torch's largest error is luck
    as_exact_as_torch(many * 4, concepts * 4, None, g, scale=1.0)
    q, concepts, _, g = problem(3, 1, 500, 8)
    out, lse, *grads = run(q * 1e3, concepts * 1e3, None, g, scale=1.0)  # scores of 1e7
    winner = torch.einsum("nhd,kd->nhk", q, concepts).argmax(-1)
    assert torch.equal(out, concepts[winner] * 1e3)
    assert all(x.isfinite().all() for x in (lse, *grads))
    found, same = (run(q, concepts, torch.full((500,), p), g) for p in (-1e6, 0.0))
    torch.testing.assert_close(found[0], same[0], rtol=0.1, atol=0.1)  # scores are rounded to 1/16


def test_instruction_sets_agree_to_rounding(levels, monkeypatch):
    inputs = problem(33, 2, 800, 40, absent=0.1)
    found = []
    for isa in levels:
        monkeypatch.setenv("RMD_CPU_ISA", isa)
        found.append(run(*inputs))
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 5, 300])
def test_top_is_the_definitions(isa, n):
    q, concepts, prior, _ = problem(37, 2, 300, 9, absent=0.3)
    index, weight = native.top_op(q, concepts, prior, 0.3, n)
    expected, share = definition.knowledge_top(
        TOP.arguments(q.double(), concepts.double(), prior.double(), scale=0.3, n=n)
    )
    torch.testing.assert_close(weight, share.float(), rtol=1e-5, atol=1e-7)
    present = expected.masked_fill(share == 0, -1)
    assert torch.equal(index.masked_fill(weight == 0, -1), present)
    assert torch.equal(index.sort(-1).values, expected.sort(-1).values)


def test_top_keeps_the_order_of_equals(isa):
    index, weight = native.top_op(torch.ones(2, 1, 3), torch.ones(200, 3), None, 1.0, 4)
    assert index.tolist() == [[[0, 1, 2, 3]]] * 2
    torch.testing.assert_close(weight, torch.full((2, 1, 4), 1 / 200))


PEAK = """
import resource, torch
from robustmdiff.ops.knowledge_attention import native
torch.set_num_threads(1)
N, k, d = 64, 1_000_000, 4
q, concepts, prior = torch.randn(N, 1, d), torch.randn(k, d), torch.randn(k)
native.forward_op(q, concepts[:100], prior[:100], 0.3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out, lse = native.forward_op(q, concepts, prior, 0.3)
native.backward_op(out, out, lse, q, concepts, prior, 0.3)
native.top_op(q, concepts, prior, 0.3, 10)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, N * k * 4)
"""


def test_a_million_concepts_need_no_array_of_rows_times_concepts():
    """256 MB of scores would be needed; the gradient of the table takes 16."""
    found = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    used, scores = map(int, found.stdout.split())
    assert used < scores / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda q, K, p, g: (q.double(), K, p, g),
            "q has dtype code 7, expected float32",
        ),
        (lambda q, K, p, g: (q, K.half(), p, g), "concepts has dtype code 5, expected 6"),
        (lambda q, K, p, g: (q[0], K, p, g), r"q has shape \[3, 5\], expected \[rows, heads, width >= 1\]"),
        (lambda q, K, p, g: (q, K[:, :4], p, g), r"concepts has shape \[7, 4\], expected \[7, 5\]"),
        (lambda q, K, p, g: (q, K[0], p[:0], g), r"concepts has shape \[5\], expected \[0, 5\]"),
        (lambda q, K, p, g: (q, K[:0], p[:0], g), r"concepts has shape \[0, 5\], expected at least one"),
        (lambda q, K, p, g: (q, K, p[:6], g), r"log_prior has shape \[6\], expected \[7\]"),
        (lambda q, K, p, g: (q, K, p.long(), g), "log_prior has dtype code 4, expected a floating-point one"),
        (lambda q, K, p, g: (q, K, p, g[:3]), r"grad_out has shape \[3, 3, 5\], expected \[4, 3, 5\]"),
        (lambda q, K, p, g: (q, K, p, g.half()), "grad_out has dtype code 5, expected 6"),
    ],
)
def test_operators_check_what_they_are_given(change, message):
    q, K, p, g = change(draw(4, 3, 5), draw(7, 5), draw(7), draw(4, 3, 5))
    out, lse = torch.zeros(4, 3, 5), torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match=message):
        native.backward_op(g, out, lse, q, K, p, 0.3)
    if "grad_out" not in message:
        with pytest.raises(RuntimeError, match=message):
            native.forward_op(q, K, p, 0.3)
        with pytest.raises(RuntimeError, match=message):
            native.top_op(q, K, p, 0.3, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_prior_is_a_value_error(value):
    prior = torch.zeros(7)
    prior[2] = value
    message = rf"knowledge_attention: log_prior\[2\] is {value}, expected a finite number"
    with use_backend(knowledge_attention="native", knowledge_top="native"):
        with pytest.raises(ValueError, match=message):
            knowledge_attention(draw(4, 3, 5), draw(7, 5), prior, scale=1.0)
        with pytest.raises(ValueError, match=message):
            knowledge_top(draw(4, 3, 5), draw(7, 5), prior, scale=1.0, n=1)


def test_what_it_declines():
    q, K = draw(4, 3, 5), draw(7, 5)
    declined = explain("knowledge_attention", q.double(), K.double(), scale=1.0).declined
    assert declined["native"] == ["float64, and the kernels compute in float32"]
    declined = explain("knowledge_top", q.to("meta"), K.to("meta"), scale=1.0, n=1).declined
    assert declined["native"] == ["no kernel for meta"]
    assert explain("knowledge_attention", q, K, scale=1.0).chosen == "native"


def test_the_operators_pass_opcheck():
    q, concepts, prior, g = problem(4, 2, 9, 5)
    for p in (prior, None):
        torch.library.opcheck(native.forward_op, (q, concepts, p, 0.4))
        out, lse = native.forward_op(q, concepts, p, 0.4)
        torch.library.opcheck(native.backward_op, (g, out, lse, q, concepts, p, 0.4))
        torch.library.opcheck(native.top_op, (q, concepts, p, 0.4, 3))


def test_compiles_whole_and_gives_the_same_bits():
    q, concepts, prior, g = problem(6, 2, 40, 8, absent=0.2)
    leaves = [x.requires_grad_() for x in (q, concepts, prior)]

    def loss(q: Tensor, concepts: Tensor, prior: Tensor) -> Tensor:
        return (knowledge_attention(q, concepts, prior, scale=0.3) * g).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    with use_backend(knowledge_attention="native"):
        plain = torch.autograd.grad(loss(*leaves), leaves)
        found = torch.autograd.grad(compiled(*leaves), leaves)
        func = torch.func.grad(loss, (0, 1, 2))(*(x.detach() for x in leaves))
        (once,) = torch.autograd.grad(loss(*leaves), leaves[0], create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated twice"):
            once.sum().backward()
    for x, y, z in zip(plain, found, func, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)
