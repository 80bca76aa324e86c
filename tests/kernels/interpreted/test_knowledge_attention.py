from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.kernels import knowledge_attention as kernels
from robustmdiff.ops import knowledge_attention
from robustmdiff.testing import draw

ROWS, K = 19, 75  # the interpreter's tiles hold 16 rows and 16 concepts, its splits 32 concepts


def drawn(D: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """A split with some concepts absent, a split with all of them absent, and a short one."""
    q, concepts = draw(ROWS, 1, D, seed=1).float(), draw(K, D, seed=2).float()
    log_prior = draw(K, seed=3).float()
    log_prior[[2, 5]] = -torch.inf
    log_prior[32:64] = -torch.inf
    return q, concepts, log_prior


def outputs(backend: str, *tensors: Tensor) -> list[Tensor]:
    tensors = tuple(x.clone().requires_grad_() for x in tensors)
    with use_backend(knowledge_attention=backend):
        out = knowledge_attention(*tensors, scale=0.3)
    return [out, *torch.autograd.grad(out, tensors, draw(*out.shape, seed=4).to(out.dtype))]


def test_several_splits():
    tensors = drawn(D=40)
    for ours, theirs in zip(outputs("triton", *tensors), outputs("torch", *tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_absent_concepts_are_never_read():
    q, concepts, log_prior = drawn()
    poisoned = concepts.clone()
    poisoned[log_prior == -torch.inf] = torch.nan
    for x, y in zip(
        outputs("triton", q, concepts, log_prior), outputs("triton", q, poisoned, log_prior), strict=True
    ):
        assert torch.equal(x, y)


def test_a_row_does_not_depend_on_the_others():
    q, concepts, log_prior = drawn()
    together, alone = outputs("triton", q, concepts, log_prior), outputs("triton", q[:3], concepts, log_prior)
    assert torch.equal(together[0][:3], alone[0])


def test_a_prior_may_be_a_column():
    q, concepts, log_prior = drawn()
    column = torch.stack([log_prior, torch.full_like(log_prior, 7.0)], 1)[:, 0]
    with use_backend(knowledge_attention="triton"):
        found = knowledge_attention(q, concepts, column.requires_grad_(), scale=0.3)
        (grad,) = torch.autograd.grad(found.square().sum(), column)
        same = log_prior.clone().requires_grad_()
        expected = knowledge_attention(q, concepts, same, scale=0.3)
        (expected_grad,) = torch.autograd.grad(expected.square().sum(), same)
    assert torch.equal(found, expected)
    assert torch.equal(grad, expected_grad)


def test_blocks_and_parts_of_the_rows_change_nothing(monkeypatch):
    tensors = drawn()
    whole = outputs("triton", *tensors)
    monkeypatch.setattr(kernels, "PART", 16)
    parts = outputs("triton", *tensors)
    assert all(torch.equal(x, y) for x, y in zip(whole[:2], parts[:2], strict=True))
    for x, y in zip(whole[2:], parts[2:], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    many = [draw(130, 1, 16, seed=5).float(), *tensors[1:]]
    whole = kernels.forward(*many, 0.3)
    monkeypatch.setattr(kernels, "SCRATCH", 1)
    assert [b.stop for b in kernels._blocks(130, 48)] == [128, 130]
    assert all(torch.equal(x, y) for x, y in zip(whole, kernels.forward(*many, 0.3), strict=True))
