"""How a flow reads the others: one as a sum, several by attention, nobody at no cost to anything."""

import pytest
import torch
from torch.nn.functional import layer_norm, linear

from robustmdiff.generation.networks.cross_guidance import CrossGuidance
from robustmdiff.generation.networks.environment import EnvironmentEncoder
from robustmdiff.generation.networks.vector import VectorNetwork


def seed_of(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def attention(layer: CrossGuidance, h: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v over the vectors seen, of h [n, positions, width], in float64."""
    layer = layer.double()
    a, (n, positions, width) = layer.attend, h.shape
    tokens = layer.enter(layer.k**0.5 * v.double())
    q, k, u = a.W_q(layer_norm(h.double(), (width,))), a.W_k(tokens), a.W_v(tokens)
    q, k, u = (x.view(n, -1, a.heads, a.d_k).transpose(1, 2) for x in (q, k, u))
    scores = (q @ k.mT / a.d_k**0.5).masked_fill(~seen[:, None, None], -torch.inf)
    read = (scores.softmax(-1).nan_to_num() @ u).transpose(1, 2).reshape(n, positions, width)
    return linear(read, a.W_o.weight)


@pytest.mark.parametrize("others", [1, 2, 3], ids=["one-other", "two-others", "three-others"])
@pytest.mark.parametrize("grid", [(), (3, 5)], ids=["vector", "grid"])
def test_it_is_attention_over_the_vectors_that_are_seen(others, grid):
    torch.manual_seed(0)
    layer = CrossGuidance(8, 6)
    h, v = torch.randn(7, 8, *grid, generator=seed_of(1)), torch.randn(7, others, 6, generator=seed_of(2))
    seen = torch.rand(7, others, generator=seed_of(3)) > 0.4
    seen[0], seen[1] = False, True
    with torch.no_grad():
        added = layer(h, v, seen)
        rows = h.flatten(2).mT if grid else h[:, None]
        expected = attention(layer, rows, v, seen)
    expected = expected.mT.reshape(h.shape) if grid else expected[:, 0]
    assert added.shape == h.shape
    torch.testing.assert_close(added.double(), expected, atol=1e-6, rtol=1e-5)
    assert not added[0].any()
    assert added[1].abs().max() > 0.01


@pytest.mark.parametrize("shape", [(9,), (4, 6, 10)], ids=["vector", "grid"])
def test_an_environment_vector_has_length_1_and_knows_the_latent_and_the_time(shape):
    encoder, z = EnvironmentEncoder(shape, 5), torch.randn(3, *shape, generator=seed_of(0))
    v = encoder(z, torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(v.norm(dim=1), torch.ones(3))
    assert v.shape == (3, 5)
    assert not torch.allclose(v, encoder(z, torch.tensor(0.5)))
    assert not torch.allclose(v, encoder(z + 1, torch.tensor([0.1, 0.5, 0.9])))
    torch.testing.assert_close(v[1:2], encoder(z[1:2], torch.tensor(0.5)))


def test_a_vector_network_says_nothing_at_first_and_goes_on_with_what_the_guide_says():
    network = VectorNetwork(5, 3)
    x, told, t = torch.randn(4, 5), torch.randn(4, 3), torch.rand(4)
    assert not network(x, t, told).any()
    torch.nn.init.normal_(network.leave.weight)
    given = []

    def guide(block, h):
        given.append((block, h.shape[1]))
        return h * 0 if block == len(network.block_widths) - 1 else h

    assert not network(x, t, told, guide).any()  # its last layer's bias is 0
    assert given == list(enumerate(network.block_widths))
    torch.testing.assert_close(network(x, torch.tensor(0.3), told), network(x, torch.full((4,), 0.3), told))
