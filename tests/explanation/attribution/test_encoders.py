"""Attribution through encoders of the user's own and of others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertTokenizerFast, ViTConfig

from robustmdiff.data.collate import Collator
from robustmdiff.data.kinds.image import Images
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoder import Embedded, Encoder
from robustmdiff.encoders.image import blurred
from robustmdiff.encoders.modalities import ModalityEncoders
from tests.explanation.attribution.task import NOTE, TASK, XRAY, explained


class Bag(nn.Module):
    """A user's own text encoder, with no word embedding for the path to enter."""

    def forward(self, texts):
        return torch.nn.functional.one_hot(texts.input_ids % 16, 16).float(), texts.lengths


def test_a_users_own_encoder_is_held_as_it_is(model, patient, collator, monkeypatch):
    monkeypatch.setitem(model.encoders.encoders._modules, "note", Bag())
    found = explained(model, patient, collator, 1, steps=32)
    assert found.gradient["note"] > 0
    assert set(found.total) == {"xray", "labs"}
    assert "note" not in found.parts
    assert abs(found.completeness_error) < 1e-3


class Pixels(Encoder):
    """One token: the pixels themselves."""

    def embed(self, images):
        return Embedded(images.pixels)

    def encode(self, embedded):
        return embedded.x.flatten(1), torch.ones(len(embedded.x), dtype=torch.long)


class Linear(nn.Module):
    """p_c = sum of weight_c * pixels: its integrated gradients are known."""

    def __init__(self):
        super().__init__()
        self.task = Task((XRAY,), ("a", "b"), (0.5, 0.5))
        size = 2 * 16 * 24
        self.weight = torch.randn(2, size, generator=torch.Generator().manual_seed(3)) / 100
        self.encoders = ModalityEncoders(self.task, ModelConfig(d_h=size, patch=8))
        self.encoders.encoders["xray"] = Pixels()
        self.anything = self.encoders.anything = nn.Parameter(torch.zeros(1))

    def embed_concepts(self):
        return torch.zeros(0)

    def inform(self, encoded, K=None):
        return encoded

    def observe(self, encoded):
        return encoded.H[:, 0]

    def direct(self, encoded):
        return self.observe(encoded) @ self.weight.T


def test_of_a_linear_model(patient):
    model = Linear()
    pixels = patient.modalities["xray"]
    found = explained(model, Patient("p", {"xray": pixels}), Collator(model.task), 1, steps=3)
    weight = model.weight[1].view(2, 16, 24)
    torch.testing.assert_close(found.parts["xray"], weight * (pixels - blurred(pixels[None])[0]))
    assert found.gradient["xray"] == pytest.approx(weight.norm().item(), rel=1e-6)
    assert found.completeness_error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("module", [nn.Module, Encoder])
def test_an_image_encoder_of_ones_own_needs_no_embedding_to_be_explained_by_pixels(patient, module):
    class Own(module):
        def forward(self, images):
            return images.pixels.flatten(1), torch.ones(len(images.pixels), dtype=torch.long)

        def embed(self, images):
            return Embedded(images.pixels)

        def encode(self, embedded):
            return self.forward(Images(None, embedded.x))

    model = Linear()
    alone = Patient("p", {"xray": patient.modalities["xray"]})
    expected = explained(model, alone, Collator(model.task), 1, steps=3)
    model.encoders.encoders["xray"] = Own()
    found = explained(model, alone, Collator(model.task), 1, steps=3)
    torch.testing.assert_close(found.parts["xray"], expected.parts["xray"])
    assert found.gradient == expected.gradient


def test_a_model_that_reads_ids_alone_is_held_as_it_is(model, patient, collator, monkeypatch):
    monkeypatch.setattr(model.encoders.encoders["note"], "by_vectors", False)
    found = explained(model, patient, collator, 1, steps=32)
    assert found.gradient["note"] > 0
    assert set(found.total) == {"xray", "labs"}
    assert "note" not in found.parts


class Fields(Encoder):
    """A panel encoder of the user's own with `embed`: one number for each field, and one too many."""

    def embed(self, panels):
        return Embedded(torch.cat([panels.present.float(), panels.value[:, :1]], 1))

    def encode(self, embedded):
        return embedded.x.repeat(1, 4)[:, :16], torch.ones(len(embedded.x), dtype=torch.long)


def test_parts_that_are_not_those_of_the_modality_are_refused(model, patient, collator, monkeypatch):
    own = Fields()
    monkeypatch.setitem(model.encoders.encoders._modules, "labs", own)
    with pytest.raises(ValueError, match=r"'labs': the encoder's parts are \[5\], expected \[4\]"):
        explained(model, patient, collator, 1, steps=1)
    monkeypatch.setattr(own, "parts", lambda x: x[:4])
    assert set(explained(model, patient, collator, 1, steps=1).parts["labs"]) == {"CRP", "sex", "age"}


def test_encoders_that_others_trained_are_explained_as_well(tmp_path, concept_table):
    """Word vectors of a BERT and pixels of a ViT, both of another width, and one channel for three."""
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 14}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "cough", "fever", "##ish"]
    BertConfig(**sizes, vocab_size=len(words)).save_pretrained(tmp_path / "bert")
    ViTConfig(**sizes, image_size=18, patch_size=6).save_pretrained(tmp_path / "vit")
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).backend_tokenizer
    note = replace(NOTE, encoder=str(tmp_path / "bert" / "config.json"))
    xray = Modality("xray", "image", shape=(1, 18, 18), encoder=str(tmp_path / "vit" / "config.json"))
    torch.manual_seed(0)
    task = Task((xray, note), TASK.classes, TASK.prevalence, findings=TASK.findings)
    model = RobustMDiff(task, ModelConfig(d_h=8, heads=2, width=16, depth=1), concept_table(task))
    nn.init.normal_(model.head.weight)
    pixels = torch.rand(1, 18, 18, generator=torch.Generator().manual_seed(1))
    patient = Patient("p", {"xray": pixels, "note": "no feverish cough"})
    found = explained(model.eval(), patient, Collator(task, tokenizer), 1, steps=64)
    assert [w.text for w in found.parts["note"]] == ["no", "feverish", "cough"]
    assert found.parts["xray"].shape == (1, 18, 18)
    assert abs(found.completeness_error) < 1e-3 * max(map(abs, found.total.values()))
