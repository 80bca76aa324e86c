"""MaskedAttnProcessor in diffusers' attention layers, beside AttnProcessor2_0."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch.utils.flop_counter import FlopCounterMode

from robustmdiff.nn import MaskedAttnProcessor
from robustmdiff.ops import register_flops

B, Lk = 2, 7
PADDED = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0]]).bool()
HOLES = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 1, 0]]).bool()


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        attention_head_dim=2, norm_num_groups=4, cross_attention_dim=10,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).double()  # fmt: skip


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("mask", [None, PADDED, HOLES], ids=["no-mask", "padded-text", "text-with-holes"])
def test_a_unet_says_the_same_and_learns_the_same(mask):
    theirs, ours = unet(), unet()
    ours.set_attn_processor(MaskedAttnProcessor())
    found = []
    for model in (theirs, ours):
        x, text = draw(B, 3, 8, 8), draw(B, Lk, 10).requires_grad_()
        register_flops()
        with FlopCounterMode(display=False) as counter:
            out = model(x, torch.tensor([5, 900]), text, encoder_attention_mask=mask).sample
        out.square().sum().backward()
        found.append((out, text.grad, *(p.grad for p in model.parameters())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
    assert any("masked_attention_fwd" in str(op) for op in counter.get_flop_counts()["Global"])


def test_padded_text_is_never_read():
    model = unet()
    model.set_attn_processor(MaskedAttnProcessor())
    x, text = draw(B, 3, 8, 8), draw(B, Lk, 10)
    clean = model(x, 5, text, encoder_attention_mask=PADDED).sample
    poisoned = model(
        x, 5, text.masked_fill(~PADDED[..., None], torch.nan), encoder_attention_mask=PADDED
    ).sample
    assert torch.equal(clean, poisoned)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"residual_connection": True, "rescale_output_factor": 1.7, "norm_num_groups": 5},
        {"qk_norm": "layer_norm", "bias": True},
        {"cross_attention_dim": 8, "cross_attention_norm": "layer_norm", "out_bias": False},
        {
            "cross_attention_dim": 8,
            "cross_attention_norm": "group_norm",
            "cross_attention_norm_num_groups": 4,
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("image", [False, True], ids=["tokens", "image"])
def test_every_convention_of_the_layer(settings, image):
    torch.manual_seed(0)
    layer = Attention(query_dim=10, heads=3, dim_head=4, **settings).double().eval()
    hidden = draw(B, 10, 2, 3) if image else draw(B, 6, 10)
    more = {"encoder_hidden_states": draw(B, Lk, 8)} if "cross_attention_dim" in settings else {}
    layer.set_processor(AttnProcessor2_0())
    theirs = layer(hidden, **more)
    layer.set_processor(MaskedAttnProcessor())
    torch.testing.assert_close(layer(hidden, **more), theirs)


def test_a_spatial_norm_sees_the_image():
    layer = Attention(query_dim=32, heads=3, dim_head=4, spatial_norm_dim=4, norm_num_groups=8).double()
    hidden, condition = draw(B, 32, 2, 3), draw(B, 4, 2, 3)
    theirs = layer(hidden, temb=condition)
    layer.set_processor(MaskedAttnProcessor())
    torch.testing.assert_close(layer(hidden, temb=condition), theirs)


@pytest.mark.parametrize(
    "mask", [PADDED, PADDED[:, None], torch.zeros(B, Lk, dtype=torch.double).masked_fill(~PADDED, -torch.inf)]
)
def test_masks_of_every_kind_are_the_same_mask(mask):
    layer = Attention(query_dim=10, heads=3, dim_head=4).double().eval()
    hidden = draw(B, Lk, 10)
    theirs = layer(hidden, attention_mask=(1 - PADDED[:, None].double()) * -10000.0)
    layer.set_processor(MaskedAttnProcessor())
    torch.testing.assert_close(layer(hidden, attention_mask=mask), theirs)


def test_a_row_of_padding_alone_reads_zero():
    layer = Attention(query_dim=10, heads=3, dim_head=4, out_bias=False).eval()
    layer.set_processor(MaskedAttnProcessor())
    mask = torch.tensor([[True] * Lk, [False] * Lk])
    out = layer(draw(B, Lk, 10).float(), attention_mask=mask)
    assert (out[0] != 0).any()
    assert (out[1] == 0).all()


def test_a_unet_compiles_whole_and_is_copied():
    model = unet()
    model.set_attn_processor(MaskedAttnProcessor())
    inputs = draw(B, 3, 8, 8), torch.tensor(5), draw(B, Lk, 10)
    expected = model(*inputs, encoder_attention_mask=PADDED).sample
    assert torch.equal(copy.deepcopy(model)(*inputs, encoder_attention_mask=PADDED).sample, expected)
    layer, hidden = model.mid_block.attentions[0].transformer_blocks[0].attn1, draw(B, 16, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(hidden), layer(hidden))
    mask = torch.zeros(B, 16, dtype=torch.double).masked_fill(torch.arange(16) % 3 == 1, -1e4)
    torch.testing.assert_close(compiled(hidden, attention_mask=mask), layer(hidden, attention_mask=mask))
    with pytest.raises(RuntimeError, match=r"values neither 0 \(seen\) nor at most -10000"):
        compiled(hidden, attention_mask=mask / 1e4)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.tensor([[0.0, 0, 0, 0, 0, 0, -0.5]] * B),
            r"mask\[0, 6\] is -0.5, expected 0 .* or at most -10000",
        ),
        (torch.zeros(B, Lk, Lk), r"attention_mask is \[2, 7, 7\], expected \[2, 7\] or \[2, 1, 7\]"),
    ],
)
def test_a_mask_that_is_not_padding_is_an_error(mask, message):
    layer = Attention(query_dim=10, heads=3, dim_head=4, processor=MaskedAttnProcessor())
    with pytest.raises(ValueError, match=message):
        layer(draw(B, Lk, 10).float(), attention_mask=mask)


def test_added_keys_are_an_error():
    layer = Attention(
        query_dim=10, heads=3, dim_head=4, added_kv_proj_dim=10, processor=MaskedAttnProcessor()
    )
    with pytest.raises(ValueError, match="attn has added keys"):
        layer(draw(B, Lk, 10).float())


@pytest.mark.parametrize("name", ["image_rotary_emb", "rotary_emb", "ip_adapter_masks"])
def test_what_it_does_not_do_is_an_error_and_not_dropped(name):
    layer = Attention(query_dim=10, heads=3, dim_head=4, processor=MaskedAttnProcessor())
    with pytest.raises(ValueError, match=f"{name} is given, expected attention without it"):
        layer(draw(B, Lk, 10).float(), **{name: torch.ones(Lk, 4)})
