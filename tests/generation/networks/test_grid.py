"""The UNet of a grid latent: any size, what each part may depend on, and where it can be guided."""

import pytest
import torch
from torch import nn

from robustmdiff.generation.networks.grid import GridNetwork, SelfAttention


def network(told: int = 0) -> GridNetwork:
    """One that says something, with random weights."""
    torch.manual_seed(3)
    network = GridNetwork((5, 3), told, widths=(8, 16))
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    return network


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (5, 4), (16, 16)], ids=str)
def test_any_grid_comes_out_as_large_as_it_went_in(size):
    assert network()(torch.randn(2, 5, *size), torch.tensor(0.3)).shape == (2, 3, *size)


def test_a_new_one_says_0():
    y = GridNetwork((5, 3), 2, widths=(8, 16))(torch.randn(2, 5, 6, 6), torch.rand(2), torch.randn(2, 2))
    assert torch.equal(y, torch.zeros(2, 3, 6, 6))


@torch.no_grad()
def test_rows_share_nothing():
    x, t, told = torch.randn(4, 5, 6, 7), torch.rand(4), torch.randn(4, 2)
    unet = network(told=2).double()
    x, t, told = x.double(), t.double(), told.double()
    together = unet(x, t, told)
    for i in range(4):
        alone = unet(x[i : i + 1], t[i : i + 1], told[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_time_and_what_is_told_count():
    unet, x, told = network(told=2), torch.randn(3, 5, 6, 6), torch.randn(3, 2)
    y = unet(x, torch.tensor(0.2), told)
    assert torch.equal(y, unet(x, torch.full((3,), 0.2), told))
    assert not torch.allclose(y, unet(x, torch.tensor(0.7), told))
    assert not torch.allclose(y, unet(x, torch.tensor(0.2), -told))


@torch.no_grad()
def test_a_guide_sees_every_block_and_decides_what_is_gone_on_with():
    unet, x, t = network(), torch.randn(2, 5, 7, 6), torch.tensor(0.5)
    seen = []

    def guide(block, h):
        seen.append((block, tuple(h.shape[1:])))
        return h

    assert torch.equal(unet(x, t, guide=guide), unet(x, t))
    sizes = [(7, 6), (4, 3), (4, 3), (7, 6)]
    assert seen == [(i, (w, *size)) for i, (w, size) in enumerate(zip(unet.block_widths, sizes, strict=True))]
    for block in range(4):
        other = unet(x, t, guide=lambda i, h, block=block: h.relu() if i == block else h)
        assert not torch.allclose(other, unet(x, t)), block


@torch.no_grad()
def test_self_attention_is_its_definition():
    torch.manual_seed(0)
    layer = SelfAttention(8).double()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    qkv = layer.qkv(layer.norm(x)).view(2, 3, 4, 2, 15)  # which, head, width / heads, position
    scores = torch.einsum("nhdq,nhdk->nhqk", qkv[:, 0], qkv[:, 1]) / 2**0.5
    read = torch.einsum("nhqk,nhdk->nhdq", scores.softmax(-1), qkv[:, 2]).reshape(2, 8, 3, 5)
    torch.testing.assert_close(layer(x), x + layer.leave(read), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("widths", [(32, 60), (0, 16)])
def test_widths_that_no_norm_divides_are_refused(widths):
    with pytest.raises(
        ValueError, match=rf"widths are \({widths[0]}, {widths[1]}\), expected multiples of 8"
    ):
        GridNetwork((1, 1), widths=widths)


def test_what_is_told_must_be_of_its_size():
    with pytest.raises(ValueError, match=r"told is \[2, 0\], expected \[2, 3\]"):
        network(told=3)(torch.randn(2, 5, 4, 4), torch.tensor(0.5))
