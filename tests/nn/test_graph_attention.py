from __future__ import annotations

import pytest
import torch

from robustmdiff.nn import GraphAttention
from robustmdiff.ops import Graph

D, HEADS, N = 12, 3, 7
SOURCE, TARGET, RELATION = [0, 1, 1, 4, 5, 5], [1, 0, 3, 3, 3, 6], [0, 1, 1, 0, 1, 0]
GRAPH = Graph.from_edges(*(torch.tensor(x) for x in (SOURCE, TARGET)), N, torch.tensor(RELATION))


def layer(relations: int = 2) -> GraphAttention:
    torch.manual_seed(0)
    made = GraphAttention(D, HEADS, relations=relations).double()
    if made.relation_bias is not None:
        torch.nn.init.normal_(made.relation_bias)
    return made


@pytest.mark.parametrize("relations", [0, 2])
def test_the_layer_is_attention_masked_by_the_edges(relations):
    module, x = layer(relations), torch.randn(N, D, dtype=torch.float64)
    bias = torch.full((HEADS, N, N), -torch.inf, dtype=torch.float64)
    for s, t, r in zip(SOURCE, TARGET, RELATION, strict=True):
        bias[:, t, s] = module.relation_bias[:, r] if relations else 0.0
    q, k, v = ((W(x)).view(N, HEADS, 4).transpose(0, 1) for W in (module.W_q, module.W_k, module.W_v))
    weight = (q @ k.mT / 2 + bias).softmax(-1).nan_to_num(0)
    theirs = x + module.W_o((weight @ v).transpose(0, 1).flatten(1))
    ours = module(x, GRAPH)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    ours.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and (p.grad != 0).any() for p in module.parameters())


def test_a_node_that_nothing_points_to_keeps_its_value():
    x = torch.randn(N, D, dtype=torch.float64)
    out = layer()(x, GRAPH)
    assert torch.equal(out[[2, 4, 5]], x[[2, 4, 5]])
    assert (out[[0, 1, 3, 6]] != x[[0, 1, 3, 6]]).all()


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="heads is 5, expected a divisor of d = 12"):
        GraphAttention(12, 5)
