"""Where the definition of masked attention must not differ from what it defines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.ops import masked_attention, masked_attention_lse, philox_key, segments_from_padded
from robustmdiff.ops.masked_attention import OP, definition
from robustmdiff.ops.registration import NOTHING
from tests.ops.masked_attention import loop

TWO = torch.tensor([[[0, 2], [2, 2]]], dtype=torch.int32)


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
@pytest.mark.parametrize("rows", [0, 3])
def test_where_nothing_is_present_there_is_a_gradient_of_zero(backend, rows):
    q, k, v = (torch.full((rows, 2, 4), torch.nan, requires_grad=True) for _ in "qkv")
    affinity = torch.zeros(2, 1, 1, requires_grad=True)
    none = torch.zeros(1, 1, 2, dtype=torch.int32)
    with use_backend(masked_attention=backend):
        out = masked_attention(q, k, v, none, none, affinity=affinity)
    assert (out == 0).all()
    for gradient in torch.autograd.grad(out.sum(), (q, k, v, affinity)):
        assert (gradient == 0).all()


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
@pytest.mark.parametrize(("dtype", "queries"), [(torch.bfloat16, 384), (torch.float16, 2304)], ids=str)
def test_gradients_are_summed_in_float32(backend, dtype, queries):
    """Of weight 1 each on one value: summed in 16 bits the gradient would stop at 256 and at 2048."""
    q = torch.zeros(queries, 1, 8, dtype=dtype)
    k = torch.zeros(1, 1, 8, dtype=dtype)
    v = torch.zeros(1, 1, 8, dtype=dtype, requires_grad=True)
    q_segments = torch.tensor([[[0, queries]]], dtype=torch.int32)
    with use_backend(masked_attention=backend):
        out = masked_attention(q, k, v, q_segments, torch.tensor([[[0, 1]]], dtype=torch.int32))
    assert torch.autograd.grad(out.sum(), v)[0].eq(queries).all()


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
def test_an_affinity_of_minus_infinity_hides_a_modality(backend):
    """As if the keys were not there; and where all are hidden, nothing is read."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if backend == "native" else torch.float64
    q, k, v = (torch.randn(4, 1, 8, generator=generator, dtype=dtype) for _ in "qkv")
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    affinity = torch.tensor([[[-torch.inf, 0.5], [-torch.inf, -torch.inf]]], dtype=dtype)
    affinity.requires_grad_()
    with use_backend(masked_attention=backend):
        out, lse = masked_attention_lse(q, k, v, TWO, TWO, affinity=affinity)
    dq, dk, dv, daffinity = torch.autograd.grad(out.square().sum(), (q, k, v, affinity))

    scores = q[:2, 0] @ k[2:, 0].T * 8**-0.5
    expected = scores.softmax(1) @ v[2:, 0]
    torch.testing.assert_close(out[:2, 0], expected)
    torch.testing.assert_close(lse[:2, 0], (scores + 0.5).logsumexp(1))
    assert (out[2:] == 0).all()
    assert (lse[2:] == NOTHING).all()
    theirs = torch.autograd.grad(expected.square().sum(), (q, k, v))
    for found, same in zip((dq, dk, dv), theirs, strict=True):
        torch.testing.assert_close(found, same)
    assert (
        daffinity.abs().max() < 50 * torch.finfo(dtype).eps
    )  # one modality alone is seen: its weight is 1, whatever is added


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
def test_a_key_of_minus_infinity_is_not_seen(backend):
    q, v = torch.ones(4, 1, 8), torch.arange(4.0).view(4, 1, 1).expand(4, 1, 8).contiguous()
    k = torch.ones(4, 1, 8)
    k[:2] = -torch.inf
    with use_backend(masked_attention=backend):
        assert torch.equal(masked_attention(q, k, v, TWO, TWO), torch.full((4, 1, 8), 2.5))


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
def test_a_modality_hidden_from_another_is_as_if_it_were_not_there(backend):
    q = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    affinity = torch.zeros(2, 2, 2)
    affinity[:, 0, 1] = affinity[:, 1, 0] = -torch.inf
    alone = torch.tensor([[[0, 2]], [[2, 2]]], dtype=torch.int32)
    with use_backend(masked_attention=backend):
        found = masked_attention(q, q, q, TWO, TWO, affinity=affinity)
        torch.testing.assert_close(found, masked_attention(q, q, q, alone, alone))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_definition_is_the_loop_over_rows(data):
    """Padded tokens of any presence, with every setting that the op has; outputs and gradients in float64."""
    flag = st.booleans()
    B, M, Hkv, D = (data.draw(st.integers(1, most)) for most in (3, 3, 2, 3))
    H, length = Hkv * data.draw(st.integers(1, 2)), st.lists(st.integers(0, 2), min_size=M, max_size=M)
    q_lengths, k_lengths = (data.draw(st.lists(length, min_size=B, max_size=B)) for _ in "qk")
    columns = [2 * i for i in range(M + 1)]
    T, L = 2 * M * B, 2 * M

    def draw(*shape: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    tensors = {"q": draw(T, H, D, seed=0), "k": draw(T, Hkv, D, seed=1), "v": draw(T, Hkv, D, seed=2)}
    given: dict = {"exclude_own": data.draw(flag), "softcap": data.draw(st.sampled_from([None, 0.7]))}
    if data.draw(flag):
        tensors["affinity"] = draw(H, M, M, seed=3)
    if data.draw(flag):
        sizes = (data.draw(st.sampled_from([1, n])) for n in (B, H, L, L))
        tensors["bias"] = draw(*sizes, seed=4)
    if data.draw(flag):
        given |= {"dropout_p": 0.4, "key": philox_key(3, 5)}
    segments = (segments_from_padded(torch.tensor(n), columns) for n in (q_lengths, k_lengths))
    named = {name: x for name, x in tensors.items() if name not in "qkv"}
    a = OP.arguments(tensors["q"], tensors["k"], tensors["v"], *segments, **named, **given)
    (out, lse), (expected, expected_lse) = definition.masked_attention(a), loop.masked_attention(a)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-12, atol=1e-12)
    g = draw(T, H, D, seed=5).detach()
    for name, x, y in zip(
        tensors,
        torch.autograd.grad(out, list(tensors.values()), g),
        torch.autograd.grad(expected, list(tensors.values()), g),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11, msg=name)
