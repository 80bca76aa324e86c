from __future__ import annotations

import pytest
import torch

from robustmdiff import use_backend
from robustmdiff.ops import knowledge_top


@pytest.mark.parametrize("backend", ["native", "torch", "definition"])
def test_top_gives_the_heaviest_concepts_and_their_share(backend):
    torch.manual_seed(0)
    q, K, prior = torch.randn(5, 2, 3), torch.randn(700, 3), torch.randn(700)
    prior[::7] = -torch.inf
    dense = (torch.einsum("nhd,kd->nhk", q, K) * 0.7 + prior).softmax(-1)
    with use_backend(knowledge_top=backend):
        index, weight = knowledge_top(q.requires_grad_(), K, prior, scale=0.7, n=4)
    assert not weight.requires_grad
    expected = dense.topk(4)
    assert torch.equal(index, expected.indices)
    torch.testing.assert_close(weight, expected.values, rtol=1e-5, atol=1e-7)


def test_top_searches_chunk_by_chunk(monkeypatch):
    from robustmdiff.ops.knowledge_attention import torch_backend

    torch.manual_seed(0)
    q, K = torch.randn(5, 2, 3), torch.randn(1700, 3)
    with use_backend(knowledge_top="torch"):
        index, weight = knowledge_top(q, K, scale=0.7, n=600)
        monkeypatch.setattr(torch_backend, "BLOCK", 64)
        monkeypatch.setattr(torch_backend, "ROWS", 3)
        same, same_weight = knowledge_top(q, K, scale=0.7, n=600)
    assert torch.equal(index, same)
    torch.testing.assert_close(weight, same_weight)


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
