from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.ops import knowledge_top


def are_the_heaviest(index: Tensor, weight: Tensor, dense: Tensor) -> None:
    """Different concepts, of the largest weights there are, in order; of two that are equal but for
    rounding, either."""
    expected = dense.topk(index.shape[-1]).values
    torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(dense.gather(-1, index), expected, rtol=1e-5, atol=1e-7)
    assert (index.sort(-1).values.diff() > 0).all()


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
def test_top_gives_the_heaviest_concepts_and_their_share(backend):
    torch.manual_seed(0)
    q, K, prior = torch.randn(5, 2, 3), torch.randn(700, 3), torch.randn(700)
    prior[::7] = -torch.inf
    dense = (torch.einsum("nhd,kd->nhk", q, K) * 0.7 + prior).softmax(-1)
    with use_backend(knowledge_top=backend):
        index, weight = knowledge_top(q.requires_grad_(), K, prior, scale=0.7, n=4)
    assert not weight.requires_grad
    are_the_heaviest(index, weight, dense)


def test_top_searches_chunk_by_chunk(monkeypatch):
    from robustmdiff.ops.knowledge_attention import torch_backend

    torch.manual_seed(0)
    q, K = torch.randn(5, 2, 3), torch.randn(1700, 3)
    with use_backend(knowledge_top="torch"):
        dense = (torch.einsum("nhd,kd->nhk", q, K) * 0.7).softmax(-1)
        are_the_heaviest(*knowledge_top(q, K, scale=0.7, n=600), dense)
        monkeypatch.setattr(torch_backend, "BLOCK", 64)
        monkeypatch.setattr(torch_backend, "ROWS", 3)
        are_the_heaviest(*knowledge_top(q, K, scale=0.7, n=600), dense)


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
def test_absent_concepts_have_no_weight(backend):
    K = torch.full((4, 3), torch.nan)
    K[2] = 1.0
    prior = torch.full((4,), -torch.inf)
    with use_backend(knowledge_top=backend):
        _, nothing = knowledge_top(torch.ones(1, 1, 3), K, prior, scale=1.0, n=2)
        prior[2] = 0.0
        index, weight = knowledge_top(torch.ones(1, 1, 3), K, prior, scale=1.0, n=2)
    assert nothing.tolist() == [[[0.0, 0.0]]]
    assert int(index[0, 0, 0]) == 2
    assert weight.tolist() == [[[1.0, 0.0]]]
