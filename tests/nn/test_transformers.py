"""Models that we did not write, with our attention inside."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from robustmdiff.nn import register_with_transformers

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


def test_a_mask_with_holes_is_an_error():
    with pytest.raises(
        ValueError, match=r"mask\[1\] has 2 columns that are not padding, from 0 on, with a hole at column 1"
    ):
        bert("robustmdiff")(
            torch.zeros(2, 4).long(), attention_mask=torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0]])
        )


def test_a_prepared_mask_is_an_error():
    with pytest.raises(
        ValueError, match=r"attention_mask is torch.float32 \[2, 1, 4, 4\], expected a padding mask"
    ):
        bert("robustmdiff")(torch.zeros(2, 4).long(), attention_mask=torch.zeros(2, 1, 4, 4))


def test_a_causal_model_is_an_error():
    with pytest.raises(ValueError, match=r"expected that of a bidirectional model"):
        bert("robustmdiff", is_decoder=True)(torch.zeros(2, 4).long())


def test_the_package_does_not_import_transformers():
    heavy = "{'transformers', 'diffusers', 'matplotlib', 'scipy', 'pandas'}"
    code = f"import sys, robustmdiff.nn; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
