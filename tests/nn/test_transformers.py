"""Models that we did not write, with our attention inside."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    BertConfig,
    BertModel,
    ConvBertConfig,
    ConvBertModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    LongT5Config,
    LongT5EncoderModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    RoFormerConfig,
    RoFormerModel,
    ViTConfig,
    ViTModel,
)
from transformers.masking_utils import bidirectional_mask_function

from robustmdiff.nn import register_with_transformers
from robustmdiff.nn.transformers import OwnAttentionError, attention, key_stretches
from robustmdiff.ops import register_flops

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 36}


def bert(implementation: str, **settings) -> BertModel:
    register_with_transformers()
    torch.manual_seed(0)
    return BertModel(
        BertConfig(vocab_size=50, attn_implementation=implementation, **SMALL, **settings)
    ).eval()


def vit(implementation: str) -> ViTModel:
    register_with_transformers()
    torch.manual_seed(0)
    return ViTModel(
        ViTConfig(image_size=20, patch_size=4, attn_implementation=implementation, **SMALL)
    ).eval()


def same_as_sdpa(models, inputs: dict, keep: torch.Tensor | None = None) -> None:
    found = []
    for model in models:
        states = model(**inputs).last_hidden_state
        states = states if keep is None else states[keep]
        states.square().mean().backward()
        found.append((states, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (theirs, their_grads), (ours, our_grads) = found
    torch.testing.assert_close(ours, theirs)
    assert our_grads.keys() == their_grads.keys()
    for name in our_grads:
        torch.testing.assert_close(our_grads[name], their_grads[name], rtol=1e-4, atol=1e-6, msg=name)


def test_bert_on_a_padded_batch_is_bert_with_sdpa():
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[0, 5:] = 0  # padded right
    mask[1, :3] = 0  # padded left
    mask[2, 1:] = 0
    ids = torch.randint(0, 50, (4, 9))
    same_as_sdpa((bert("sdpa"), bert("robustmdiff")), {"input_ids": ids, "attention_mask": mask}, mask.bool())


def test_bert_without_a_mask_is_bert_with_sdpa():
    same_as_sdpa((bert("sdpa"), bert("robustmdiff")), {"input_ids": torch.randint(0, 50, (2, 7))})


def test_vit_is_vit_with_sdpa():
    same_as_sdpa((vit("sdpa"), vit("robustmdiff")), {"pixel_values": torch.randn(3, 3, 20, 20)})


def test_our_attention_is_what_ran():
    register_flops()
    with FlopCounterMode(display=False) as counter:
        vit("robustmdiff")(torch.randn(3, 3, 20, 20))
    assert any("masked_attention_fwd" in str(op) for op in counter.get_flop_counts()["Global"])


def test_a_text_of_padding_alone_stays_finite():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    states = bert("robustmdiff")(
        input_ids=torch.randint(0, 50, (2, 3)), attention_mask=mask
    ).last_hidden_state
    assert torch.isfinite(states).all()


def test_attention_dropout_is_drawn_in_training():
    model = bert("robustmdiff", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0).train()
    ids = torch.randint(0, 50, (2, 7))
    torch.manual_seed(3)
    first, second = model(ids).last_hidden_state, model(ids).last_hidden_state
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(model(ids).last_hidden_state, first)


HOLES = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 1, 1, 1, 0, 0], [0] * 4 + [1] + [0] * 4])


def test_a_mask_with_holes_is_bert_with_sdpa():
    ids = torch.randint(0, 50, (3, 9))
    same_as_sdpa((bert("sdpa"), bert("robustmdiff")), {"input_ids": ids, "attention_mask": HOLES}, HOLES > 0)


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32, torch.int8], ids=str)
def test_a_mask_of_any_dtype_is_the_same_mask(kind):
    ids = torch.randint(0, 50, (3, 9))
    model = bert("robustmdiff")
    expected = model(ids, attention_mask=HOLES).last_hidden_state
    assert torch.equal(model(ids, attention_mask=HOLES.to(kind)).last_hidden_state, expected)


def test_a_compiled_model_knows_holes_too():
    """And compiles once: what a mask holds is no part of its graph."""
    model, ids = bert("robustmdiff"), torch.randint(0, 50, (3, 9))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for mask in (HOLES, torch.ones(3, 9).long(), HOLES.flip(1)):
        with torch.compiler.set_stance("default" if mask is HOLES else "fail_on_recompile"):
            found = compiled(ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(found, model(ids, attention_mask=mask).last_hidden_state)


def test_rows_of_a_mask_may_be_repeated_on_their_way():
    """As video models do for the frames of a row: the stretches count from the row's own first column."""
    mask = key_stretches(3, 9, 9, mask_function=bidirectional_mask_function, attention_mask=HOLES > 0)
    module, x = torch.nn.Module(), torch.randn(3, 2, 9, 4)
    once, _ = attention(module, x, x, x, mask)
    twice, _ = attention(module, *[x.repeat_interleave(2, 0)] * 3, mask.repeat_interleave(2, 0))
    assert torch.equal(twice, once.repeat_interleave(2, 0))
    with pytest.raises(ValueError, match=r"expected a padding mask of shape \[3, 8\] given to the model"):
        attention(module, x[:, :, :8], x[:, :, :8], x[:, :, :8], mask)  # a mask for other keys


def test_cross_attention_with_fewer_queries_than_keys_is_eager():
    register_with_transformers()
    config = InstructBlipQFormerConfig(vocab_size=50, encoder_hidden_size=20, **SMALL)
    torch.manual_seed(0)
    model = InstructBlipQFormerModel(config).eval()
    inputs = {
        "input_ids": torch.randint(0, 50, (3, 4)),
        "query_embeds": torch.randn(3, 5, 24),
        "encoder_hidden_states": torch.randn(3, 9, 20),
        "encoder_attention_mask": HOLES,
    }
    found = []
    for how in ("eager", "robustmdiff"):
        model.set_attn_implementation(how)
        found.append(model(**inputs).last_hidden_state)
    torch.testing.assert_close(found[1], found[0])


def test_a_prepared_mask_is_an_error():
    with pytest.raises(
        ValueError, match=r"attention_mask is torch.float32 \[2, 1, 4, 4\], expected a padding mask"
    ):
        bert("robustmdiff")(torch.zeros(2, 4).long(), attention_mask=torch.zeros(2, 1, 4, 4))


def test_a_causal_model_is_an_error():
    with pytest.raises(ValueError, match=r"expected that of a bidirectional model"):
        bert("robustmdiff", is_decoder=True)(torch.zeros(2, 4).long())


def test_a_window_is_an_error():
    register_with_transformers()
    config = ModernBertConfig(vocab_size=50, attn_implementation="robustmdiff", pad_token_id=0, **SMALL)
    with pytest.raises(ValueError, match=r"mask_function is .*, expected that of a bidirectional model"):
        ModernBertModel(config)(torch.ones(2, 4).long())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("s_aux", torch.zeros(2), r"s_aux = torch.float32 \[2\]"),
        ("sinks", torch.zeros(2), r"sinks = torch.float32 \[2\]"),
        ("sliding_window", 128, "sliding_window = 128"),
        ("head_mask", torch.ones(2), r"head_mask = torch.float32 \[2\]"),
        ("cu_seq_lens_q", torch.tensor([0, 3, 9]), r"cu_seq_lens_q = torch.int64 \[3\]"),
        ("max_length_k", 6, "max_length_k = 6"),
        ("block_indices", torch.zeros(1), "block_indices = "),
        ("seq_idx", torch.zeros(1), "seq_idx = "),
        ("what_comes_next_year", False, "what_comes_next_year = False"),
    ],
)
def test_an_argument_of_unknown_meaning_is_an_error_by_its_name(name, value, said):
    x = torch.randn(1, 2, 9, 4)
    with pytest.raises(ValueError, match=f"^robustmdiff attention: Module passes {said}.*, expected None"):
        attention(torch.nn.Module(), x, x, x, None, **{name: value})
    assert torch.equal(
        attention(torch.nn.Module(), x, x, x, None, **{name: None})[0],
        attention(torch.nn.Module(), x, x, x, None, position_ids=torch.arange(9), use_cache=True)[0],
    )


def test_output_attentions_is_an_error():
    ids = torch.zeros(2, 4).long()
    with pytest.raises(ValueError, match="output_attentions is True in BertSelfAttention, expected False"):
        bert("robustmdiff")(ids, output_attentions=True)
    model = bert("eager", output_attentions=True)
    assert model(ids).attentions[0].shape == (2, 3, 4, 4)
    model.set_attn_implementation("robustmdiff")
    with pytest.raises(ValueError, match="output_attentions is True"):
        model(ids)
    silent = Aimv2VisionModel(  # does not pass it on to its attention
        Aimv2VisionConfig(image_size=20, patch_size=4, attn_implementation="robustmdiff", **SMALL)
    )
    with pytest.raises(ValueError, match="output_attentions is True in Aimv2Attention"):
        silent(torch.randn(1, 3, 20, 20), output_attentions=True)
    assert silent(torch.randn(1, 3, 20, 20), output_hidden_states=True).hidden_states


def own_attention() -> list[str]:
    """Modules of the installed transformers that make their mask by its interface and their attention not."""
    found = []
    for path in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        attends = re.search(r"^class \w*Attention\w*\(nn\.Module\)", text, re.MULTILINE)
        if "create_bidirectional_mask" in text and attends and "ALL_ATTENTION_FUNCTIONS" not in text:
            found.append(f"transformers.models.{path.parent.name}.{path.stem}")
    return found


@pytest.mark.parametrize("module", own_attention())
def test_a_model_that_attends_by_itself_is_refused_as_it_refuses_sdpa(module):
    register_with_transformers()
    models = [
        model
        for model in vars(importlib.import_module(module)).values()
        if isinstance(model, type) and issubclass(model, PreTrainedModel) and model.__module__ == module
    ]
    assert models
    for model in models:
        new = model.__new__(model)
        for name, error in (("sdpa", ValueError), ("robustmdiff", OwnAttentionError)):
            with pytest.raises(error):
                new.get_correct_attn_implementation(name)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (MPNetModel, MPNetConfig),
        (RoFormerModel, RoFormerConfig),
        (LongT5EncoderModel, LongT5Config),  # the attention of its decoder can be exchanged
        (ConvBertModel, ConvBertConfig),
    ],
)
def test_a_refusal_is_one_sentence_at_both_doors(model, config):
    register_with_transformers()
    small = {"vocab_size": 50, "num_hidden_layers": 1}
    message = f"^robustmdiff attention: {model.__name__} computes attention by itself, expected a model that"
    with pytest.raises(OwnAttentionError, match=message):
        model(config(attn_implementation="robustmdiff", **small))
    old = model(config(**small))
    with pytest.raises(OwnAttentionError, match=message):
        old.set_attn_implementation("robustmdiff")
    assert old.config._attn_implementation != "robustmdiff"


def test_registering_twice_changes_nothing():
    register_with_transformers()
    doors = PreTrainedModel.get_correct_attn_implementation, PreTrainedModel.set_attn_implementation
    register_with_transformers()
    assert doors == (PreTrainedModel.get_correct_attn_implementation, PreTrainedModel.set_attn_implementation)


def test_the_package_does_not_import_transformers():
    heavy = "{'transformers', 'diffusers', 'matplotlib', 'scipy', 'pandas'}"
    code = f"import sys, robustmdiff.nn; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sequences_end_to_end_are_those_of_a_padded_batch():
    """Of 5, 1 and 4 tokens: in one row, without padding, and with the same gradients."""
    lengths = torch.tensor([5, 1, 4])
    keep = torch.arange(5) < lengths[:, None]
    ids = torch.randint(0, 50, (3, 5))
    segments = torch.stack([lengths.cumsum(0) - lengths, lengths], -1).int()[:, None]
    place = torch.arange(5).expand(3, 5)[keep][None]
    packed, padded = bert("robustmdiff"), bert("sdpa")
    found = packed(ids[keep][None], position_ids=place, segments=segments).last_hidden_state[0]
    expected = padded(ids, attention_mask=keep.long()).last_hidden_state[keep]
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    expected.square().mean().backward()
    theirs = dict(padded.named_parameters())
    for name, p in packed.named_parameters():
        torch.testing.assert_close(p.grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)
