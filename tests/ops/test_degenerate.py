"""Inputs with little or nothing in them: every backend says what the definition says, gradients included.

Sizes of 0, rows without edges, priors and biases of -inf. What nothing flows into is 0, on every backend
a part of the graph that autograd records, and as exact as the definition in the same dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.ops import Graph, graph_attention, knowledge_attention, masked_attention
from robustmdiff.ops.softmax import softmax
from robustmdiff.ops.triton_support import INTERPRETED
from robustmdiff.testing import DEVICE, backends_under_test, draw
from robustmdiff.testing.cases.masked_attention import segments_of_packed
from robustmdiff.testing.contracts import gradients, largest, within

DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
MASKED = st.sampled_from([-torch.inf, 0.0, 1.5])
EXAMPLES = settings(max_examples=25, deadline=None)

Run = Callable[..., Tensor]


def of(op: str) -> Any:
    return pytest.mark.parametrize(
        "backend", [pytest.param(b, id=f"{op}-{b}") for b in backends_under_test(op)]
    )


def as_the_definition(
    op: str, backend: str, dtype: torch.dtype, run: Run, tensors: dict[str, Tensor]
) -> None:
    """`run(**tensors)` on the backend, as exact as the definition in that dtype; both against float64."""
    tensors = {name: x.to(DEVICE, dtype) for name, x in tensors.items()}
    g = draw(*tensors["q"].shape, seed=9).to(DEVICE, dtype)

    def on(name: str, wide: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        given = {name: x.to(wide, copy=True).requires_grad_() for name, x in tensors.items()}
        with use_backend(**{op: name}):
            return gradients(run, given, g.to(wide))

    ours, our_grads = on(backend, dtype)
    plain, plain_grads = on("definition", dtype)
    exact, exact_grads = on("definition", torch.float64)
    terms = largest(*(x.nan_to_num(neginf=0) for x in tensors.values())) * max(largest(g), 1)
    within("out", ours, plain, exact, 2, terms)
    assert (ours[exact == 0] == 0).all()
    for name, x in tensors.items():
        within(f"d{name}", our_grads[name], plain_grads[name], exact_grads[name], 3, terms)
        assert our_grads[name].shape == x.shape


def test_the_softmax_of_nothing_is_0():
    scores = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]], requires_grad=True)
    weights, lse = softmax(scores)
    assert weights.tolist() == [[1, 0], [0, 0]]
    assert lse.tolist() == pytest.approx([0, -1e30])
    weights.square().sum().backward()
    assert scores.grad.tolist() == [[0, 0], [0, 0]]
    weights, lse = softmax(torch.zeros(3, 0))
    assert weights.shape == (3, 0)
    assert lse.tolist() == pytest.approx([-1e30] * 3)


@of("graph_attention")
@EXAMPLES
@given(data=st.data())
def test_graphs(backend, data):
    n, H, D = (data.draw(st.integers(low, 4)) for low in (0, 0, 1))
    node = st.integers(0, max(n - 1, 0))
    edges = data.draw(st.lists(st.tuples(node, node, st.integers(0, 1)), max_size=9 if n else 0))
    source, target, relation = torch.tensor(edges, dtype=torch.long).reshape(-1, 3).unbind(1)
    graph = Graph.from_edges(source, target, n, relation).to(DEVICE)
    tensors = {name: draw(n, H, D, seed=i) for i, name in enumerate("qkv")}
    if data.draw(st.booleans()):
        bias = data.draw(st.lists(MASKED, min_size=2 * H, max_size=2 * H))
        tensors["relation_bias"] = torch.tensor(bias, dtype=torch.float64).reshape(H, 2)

    def run(q: Tensor, k: Tensor, v: Tensor, relation_bias: Tensor | None = None) -> Tensor:
        return graph_attention(q, k, v, graph, relation_bias=relation_bias)

    as_the_definition("graph_attention", backend, data.draw(st.sampled_from(DTYPES)), run, tensors)


@of("knowledge_attention")
@EXAMPLES
@given(data=st.data())
def test_concepts(backend, data):
    N, H, d, k = (data.draw(st.integers(low, 4)) for low in (0, 0, 1, 1))
    tensors = {"q": draw(N, H, d, seed=0), "concepts": draw(k, d, seed=1)}
    if data.draw(st.booleans()):
        prior = data.draw(st.lists(MASKED, min_size=k, max_size=k))
        tensors["log_prior"] = torch.tensor(prior, dtype=torch.float64)

    def run(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None) -> Tensor:
        return knowledge_attention(q, concepts, log_prior, scale=0.7)

    as_the_definition("knowledge_attention", backend, data.draw(st.sampled_from(DTYPES)), run, tensors)


@of("masked_attention")
@EXAMPLES
@given(data=st.data())
def test_patients(backend, data):
    B, Mq, M, Hkv, D = (data.draw(st.integers(1, high)) for high in (3, 2, 2, 2, 4))
    H = Hkv * data.draw(st.integers(1, 2))

    def packed(modalities: int) -> tuple[Tensor, int]:
        cells = B * modalities
        lengths = data.draw(st.lists(st.integers(0, 2), min_size=cells, max_size=cells))
        return segments_of_packed(torch.tensor(lengths).view(B, modalities))

    (q_segments, Tq), (k_segments, Tk) = packed(Mq), packed(M)
    exclude_own = Mq == M and data.draw(st.booleans())
    tensors = {"q": draw(Tq, H, D, seed=0), "k": draw(Tk, Hkv, D, seed=1), "v": draw(Tk, Hkv, D, seed=2)}
    if data.draw(st.booleans()):
        tensors["affinity"] = draw(H, Mq, M, seed=3)
        cells = H * Mq * M
        hidden = data.draw(st.lists(st.booleans(), min_size=cells, max_size=cells))
        tensors["affinity"].masked_fill_(torch.tensor(hidden).view(H, Mq, M), -torch.inf)

    def run(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None = None) -> Tensor:
        segments = q_segments.to(DEVICE), k_segments.to(DEVICE)
        return masked_attention(q, k, v, *segments, affinity=affinity, exclude_own=exclude_own)

    as_the_definition("masked_attention", backend, data.draw(st.sampled_from(DTYPES)), run, tensors)


@pytest.mark.parametrize("backend", backends_under_test("graph_attention"))
def test_a_key_of_minus_infinity_is_not_attended_to(backend):
    """Alone it leaves nothing to read; beside another, the other. (q's gradient is 0 x inf there: NaN.)"""
    graph = Graph.from_edges(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]), 3).to(DEVICE)
    one = torch.ones(3, 1, 8, device=DEVICE)
    k = one.clone()
    k[0] = -torch.inf
    k, v = k.requires_grad_(), (2 * one).requires_grad_()
    with use_backend(graph_attention=backend):
        out = graph_attention(one, k, v, graph)
    assert out[:, 0, 0].tolist() == [0, 0, 2]
    dk, dv = torch.autograd.grad(out.sum(), (k, v))
    assert not dk.any()
    assert dv[:, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("backend", backends_under_test("knowledge_attention"))
def test_a_query_of_minus_infinity_consults_nothing(backend):
    """Every score is -inf: 0, as where the prior hides every concept, and the rows beside it as ever."""
    q = torch.ones(3, 1, 8, device=DEVICE)
    concepts = torch.linspace(0.1, 1, 40, device=DEVICE).view(5, 8)
    with use_backend(knowledge_attention=backend):
        alone = knowledge_attention(q, concepts, scale=0.5)
        q[1] = -torch.inf
        q.requires_grad_()
        out = knowledge_attention(q, concepts, scale=0.5)
        (dq,) = torch.autograd.grad(out.sum(), q)
    assert not out[1].any()
    assert (out[[0, 2]] == alone[[0, 2]]).all()
    assert dq[1].abs().max() < 1e-30
    assert dq.isfinite().all()


@pytest.mark.parametrize("backend", backends_under_test("graph_attention"))
def test_gradients_of_16_bits_are_summed_in_float32(backend):
    """1,000 edges that share one key: sums in bfloat16 would stop growing at 256."""
    if INTERPRETED:
        return  # whose bfloat16 is wrong
    graph = Graph.from_edges(torch.zeros(1000).long(), torch.arange(1000), 1000).to(DEVICE)
    x = torch.zeros(1000, 1, 8, device=DEVICE, dtype=torch.bfloat16)
    v = x.clone().requires_grad_()
    with use_backend(graph_attention=backend):
        (dv,) = torch.autograd.grad(graph_attention(x, x, v, graph).sum(), v)
    assert dv[0, 0, 0] == torch.tensor(1000.0).bfloat16()
