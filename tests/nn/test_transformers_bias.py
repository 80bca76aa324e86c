"""Encoders of transformers that add to the scores (T5's position bias, a soft cap): ours beside eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from transformers.models.seamless_m4t.modeling_seamless_m4t import SeamlessM4TSpeechEncoder

from robustmdiff.nn import register_with_transformers

L = 9
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(5, 90, (2, L), generator=GENERATOR)
PADDED = torch.tensor([[1] * L, [1] * 6 + [0] * 3])
HOLES = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 1, 1, 1, 0, 0]])
BOXES = torch.arange(2 * L * 4).reshape(2, L, 4) % 60

T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
T5 |= {"dropout_rate": 0.0}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LAYOUT = {**BERT, "vocab_size": 99, "has_relative_attention_bias": True, "has_spatial_attention_bias": True}
LAYOUT |= {"coordinate_size": 6, "shape_size": 4, "max_2d_position_embeddings": 64, "visual_embed": False}
SPEECH = {**BERT, "conv_depthwise_kernel_size": 3}
FEATURES = {"feature_projection_input_dim": 12}
CONV = {"conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}
CONV |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
SEAMLESS = {"hidden_size": 32, "speech_encoder_layers": 2, "speech_encoder_attention_heads": 4}
SEAMLESS |= {"speech_encoder_intermediate_size": 48, "num_adapter_layers": 1, **FEATURES}
SEAMLESS |= {"conv_depthwise_kernel_size": 3, "adaptor_kernel_size": 2, "adaptor_stride": 2}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


TEXT = {"input_ids": IDS}
SOUND = {"input_features": draw(2, L, 12)}
WAVE = {"input_values": draw(2, 100)}  # 9 steps
PAGE = {"bbox": torch.rand(2, L, 4, generator=GENERATOR).double(), "pixel_values": draw(2, 3, 32, 32)}

# name: what makes the model, what it reads, and the parameters that learn by the bias (LayoutLMv3 makes its
# bias without a gradient)
FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Tensor], str | None]] = {
    "t5": (lambda: hf.T5EncoderModel(hf.T5Config(**T5)), TEXT, "relative_attention_bias"),
    "mt5": (lambda: hf.MT5EncoderModel(hf.MT5Config(**T5)), TEXT, "relative_attention_bias"),
    "umt5": (lambda: hf.UMT5EncoderModel(hf.UMT5Config(**T5)), TEXT, "relative_attention_bias"),
    "udop": (
        lambda: hf.UdopEncoderModel(hf.UdopConfig(**T5, image_size=32, patch_size=16)),
        TEXT | PAGE,
        "relative_attention_bias",
    ),
    "layoutlmv3": (
        lambda: hf.LayoutLMv3Model(hf.LayoutLMv3Config(**LAYOUT)), TEXT | {"bbox": BOXES}, None
    ),
    "wav2vec2-bert": (
        lambda: hf.Wav2Vec2BertModel(
            hf.Wav2Vec2BertConfig(**SPEECH, **FEATURES, position_embeddings_type="relative_key")
        ),
        SOUND,
        "distance_embedding",
    ),
    "wav2vec2-bert-relative": (
        lambda: hf.Wav2Vec2BertModel(
            hf.Wav2Vec2BertConfig(**SPEECH, **FEATURES, position_embeddings_type="relative")
        ),
        SOUND,
        "pos_bias_v",
    ),
    "wav2vec2-conformer": (
        lambda: hf.Wav2Vec2ConformerModel(
            hf.Wav2Vec2ConformerConfig(**SPEECH, **CONV, position_embeddings_type="relative")
        ),
        WAVE,
        "pos_bias_v",
    ),
    "seamless-m4t": (
        lambda: SeamlessM4TSpeechEncoder(hf.SeamlessM4TConfig(**SEAMLESS)), SOUND, "pos_bias_v"
    ),
}  # fmt: skip


def make(family: str) -> Any:
    """The model in float64, with weights as large as training makes them."""
    register_with_transformers()
    torch.manual_seed(0)
    model = FAMILIES[family][0]().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1 and p.requires_grad:
                p.normal_(0, 0.2)
    return model


def mask_of(family: str, mask: Tensor | None) -> dict[str, Tensor]:
    if mask is None:
        return {}
    if "input_values" in FAMILIES[family][1]:  # samples
        return {"attention_mask": torch.cat([mask[:, :1].expand(-1, 60), mask[:, -1:].expand(-1, 40)], 1)}
    return {"attention_mask": mask}


def value_and_gradients(model: Any, inputs: dict[str, Tensor], keep: Tensor | None) -> tuple[Tensor, dict]:
    model.zero_grad()
    out = model(**inputs).last_hidden_state
    if keep is not None and keep.shape == out.shape[:2]:
        out = out[keep]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (out * weights.to(out.dtype)).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return out.detach(), grads


@pytest.mark.parametrize("mask", [None, PADDED, HOLES], ids=["whole", "padded", "holes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_value_and_every_gradient_are_those_of_eager(family, mask):
    _, inputs, bias = FAMILIES[family]
    inputs = inputs | mask_of(family, mask)
    keep = None if mask is None else mask.bool()
    model = make(family)
    model.set_attn_implementation("eager")
    theirs, their_grads = value_and_gradients(model, inputs, keep)
    model.set_attn_implementation("robustmdiff")
    ours, our_grads = value_and_gradients(model, inputs, keep)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert our_grads.keys() == their_grads.keys()
    for name, gradient in our_grads.items():
        torch.testing.assert_close(gradient, their_grads[name], rtol=1e-8, atol=1e-9, msg=name)
    if bias is not None:
        of_bias = [gradient for name, gradient in our_grads.items() if bias in name]
        assert of_bias
        assert all(gradient.abs().max() > 1e-6 for gradient in of_bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["t5", "layoutlmv3"])
def test_it_is_as_exact_as_eager(family, dtype):
    """Error against float64 at most twice that of eager in the same dtype."""
    _, inputs, _ = FAMILIES[family]
    inputs = inputs | {"attention_mask": PADDED}
    exact, exact_grads = value_and_gradients(make(family).to(dtype).double(), inputs, PADDED.bool())
    errors = []
    for how in ("eager", "robustmdiff"):
        model = make(family).to(dtype)
        model.set_attn_implementation(how)
        out, grads = value_and_gradients(model, inputs, PADDED.bool())
        of_grads = sum(float((g.double() - exact_grads[name]).square().sum()) for name, g in grads.items())
        errors.append((float((out.double() - exact).square().mean().sqrt()), of_grads**0.5))
    for theirs, ours in zip(*errors, strict=True):
        assert ours <= 2 * theirs


@pytest.mark.parametrize("cap", [0.05, 50.0])
def test_videoprism_with_a_soft_cap_is_eager(cap):
    register_with_transformers()
    torch.manual_seed(0)
    config = hf.VideoPrismVisionConfig(
        image_size=16, num_frames=2, tubelet_size=[1, 8, 8], hidden_size=32, num_spatial_layers=1,
        num_temporal_layers=1, num_attention_heads=4, intermediate_size=48, attn_logit_softcapping=cap,
    )  # fmt: skip
    model = hf.VideoPrismVisionModel(config).double().eval()
    inputs = {"pixel_values_videos": draw(1, 2, 3, 16, 16)}
    found = []
    for how in ("eager", "robustmdiff"):
        model.set_attn_implementation(how)
        found.append(value_and_gradients(model, inputs, None))
    (theirs, their_grads), (ours, our_grads) = found  # its eager softmax is float32 whatever the input
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for name, gradient in our_grads.items():
        torch.testing.assert_close(gradient, their_grads[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["t5", "layoutlmv3"])
def test_it_compiles_with_holes_and_with_its_gradient(family):
    _, inputs, _ = FAMILIES[family]
    model, inputs = make(family), inputs | {"attention_mask": HOLES}
    model.set_attn_implementation("robustmdiff")
    theirs, their_grads = value_and_gradients(model, inputs, HOLES.bool())
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    ours, our_grads = value_and_gradients(compiled, inputs, HOLES.bool())
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for name, gradient in their_grads.items():
        torch.testing.assert_close(our_grads[f"_orig_mod.{name}"], gradient, rtol=1e-8, atol=1e-9, msg=name)


def test_dropout_under_a_position_bias_is_drawn_anew_and_drops_its_share():
    register_with_transformers()
    torch.manual_seed(0)
    model = hf.T5EncoderModel(hf.T5Config(**{**T5, "dropout_rate": 0.5})).train()
    model.set_attn_implementation("robustmdiff")
    attention = model.encoder.block[0].layer[0].SelfAttention
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # that of the attention weights alone remains
    states = torch.randn(2, L, 32)
    bias = torch.zeros(1, 4, L, L, requires_grad=True)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return attention(states, position_bias=bias)[0]

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert torch.autograd.grad(run(3).square().sum(), bias)[0].abs().max() > 0
    model.eval()
    whole = run(3)
    model.train()
    draws = torch.stack([run(seed) for seed in range(400)])
    error = draws.std(0) / 400**0.5
    assert ((draws.mean(0) - whole).abs() / error).max() < 5  # of 576 numbers: once in 3000 such tests
