"""Where the definition of masked attention must not differ from what it defines."""

from __future__ import annotations

import pytest
import torch

from robustmdiff import use_backend
from robustmdiff.ops import masked_attention, masked_attention_lse
from robustmdiff.ops.registration import NOTHING

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
