from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertTokenizerFast, ViTConfig

from robustmdiff.data import collate
from robustmdiff.data.batch import Images
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Field, Modality, Task
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoder import Embedded, Encoder
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.explanation import explain
from robustmdiff.explanation.attribution import StraightPath, attribute, read
from robustmdiff.explanation.explain import explain_patient
from robustmdiff.explanation.parts import blurred
from robustmdiff.knowledge.concepts import ConceptTable

XRAY = Modality("xray", "image", shape=(2, 16, 24), window=(-3.0, 3.0))
NOTE = Modality("note", "text")
LABS = Modality(
    "labs",
    "values",
    fields=(
        Field("CRP", "mg/L", (0.0, 10.0)),
        Field("sex", categories=("female", "male", "other")),
        Field("age", "years"),
        Field("smoker", categories=("no", "yes")),
    ),
)
TASK = Task((LABS, XRAY, NOTE), ("well", "ill", "worse"), (0.6, 0.3, 0.1), findings=("fever", "opacity"))
TEXT = "No new opacity; left-sided effusion, fever 39.5 in the X-ray."


@pytest.fixture(scope="module")
def collator():
    texts = [TEXT, "fever and cough", "opacities of the lungs", "no effusion"]
    return Collator(TASK, train_tokenizer(texts, vocab_size=60), max_tokens=48)


def concept_table() -> ConceptTable:
    names = TASK.classes + TASK.findings
    return ConceptTable(
        id=names,
        name=names,
        definition=("",) * 5,
        kind=("disease",) * 3 + ("finding",) * 2,
        prevalence=np.full(5, 0.2, np.float32),
        source=np.array([1, 2, 3]),
        target=np.array([3, 4, 1]),
        relation=np.array([0, 0, 1]),
        relations=("has_phenotype", "phenotype_of"),
        frequency=np.array([[0.1, 0.1], [0.8, 0.2], [0.5, 0.9]], np.float32),
    )


@pytest.fixture(scope="module")
def model(collator, patient):
    """Untrained, every part of it saying something, and the patient on the fence: all classes alike,
    where what a part says moves a probability most."""
    torch.manual_seed(0)
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(
        d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=48, width=16, depth=1
    )
    model = RobustMDiff(TASK, config, concept_table())
    nn.init.normal_(model.head.weight)
    model.eval()
    with torch.no_grad():
        model.prior_shift -= model.probability(model.observe(model.encode(collator([patient]))))[0].log()
    return model


@pytest.fixture(scope="module")
def patient():
    image = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(1))
    return Patient("p", {"xray": image, "note": TEXT, "labs": {"CRP": 80.0, "sex": "male", "age": 61.0}})


def explained(model, patient, collator, target, **options):
    return attribute(model, read(model, patient, collator), target, **options)


def test_contributions_add_up(model, patient, collator):
    few, many = (explained(model, patient, collator, 1, steps=steps) for steps in (2, 64))
    for found in (few, many):
        gap = found.probability - found.baseline - sum(found.total.values())
        assert found.completeness_error == pytest.approx(gap, abs=1e-12)
        assert set(found.total) == set(found.gradient) == {"xray", "note", "labs"}
    size = max(abs(x) for x in many.total.values())
    assert size > 0.02
    assert abs(many.completeness_error) < 1e-3 * size
    assert abs(many.completeness_error) < abs(few.completeness_error)
    assert all(g > 0 for g in many.gradient.values())


def test_every_part_adds_up_to_its_modality(model, patient, collator):
    found = explained(model, patient, collator, 2, steps=8)
    assert found.pixels["xray"].shape == (2, 16, 24)
    assert found.pixels["xray"].sum().item() == pytest.approx(found.total["xray"], rel=1e-3)
    assert sum(w.attribution for w in found.words["note"]) == pytest.approx(found.total["note"], rel=1e-3)
    assert sum(found.cells["labs"].values()) == pytest.approx(found.total["labs"], rel=1e-3)


def test_probability_is_that_of_the_direct_path(model, patient, collator):
    found = explained(model, patient, collator, 0, steps=1)
    with torch.no_grad():
        p = model.probability(model.observe(model.encode(collator([patient]))))
    assert found.probability == pytest.approx(p[0, 0].item(), abs=1e-6)


def test_baseline_is_a_patient_whose_modalities_say_nothing(model, patient, collator):
    """An empty panel and a blurred image can be given to the model as such."""
    both = replace(patient, modalities={k: patient.modalities[k] for k in ("xray", "labs")})
    silent = replace(patient, modalities={"xray": blurred(patient.modalities["xray"][None])[0], "labs": {}})
    found = explained(model, both, collator, 1, steps=1)
    with torch.no_grad():
        p = model.probability(model.observe(model.encode(collator([silent]))))
    assert found.baseline == pytest.approx(p[0, 1].item(), abs=1e-6)
    assert abs(found.probability - found.baseline) > 1e-4  # far beyond what "equal" was allowed


def test_words_are_whole_and_where_they_stand(model, patient, collator):
    words = explained(model, patient, collator, 1, steps=2).words["note"]
    expected = "No new opacity ; left - sided effusion , fever 39 . 5 in the X - ray ."
    assert " ".join(w.text for w in words) == expected
    assert all(TEXT[w.start : w.end] == w.text for w in words)
    assert len({round(w.attribution, 9) for w in words}) > len(words) // 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pneumoni\u0301a, cafe\u0301 nai\u0308ve", "Pneumoni\u0301a , cafe\u0301 nai\u0308ve"),
        ("निमोनिया है", "निमोनिया है"),
        ("effu\u00adsion 10⁹ 1½ 5 ㎎", "effu\u00adsion 10⁹ 1½ 5 ㎎"),
        ("患者CRP高い", "患 者 CRP 高 い"),
    ],
)
def test_words_of_any_script_are_whole_and_once_on_the_page(model, patient, collator, text, expected):
    """Untrained on these characters: every piece of a word is [UNK] or a letter."""
    words = explained(model, replace(patient, modalities={"note": text}), collator, 1, steps=2).words["note"]
    assert " ".join(w.text for w in words) == expected
    assert all(text[w.start : w.end] == w.text for w in words)
    assert all(a.end <= b.start for a, b in pairwise(words))


def test_a_text_beyond_the_longest_is_read_to_its_cut(model, patient, collator):
    long = replace(patient, modalities={"note": "fever " * 60})
    words = explained(model, long, collator, 1, steps=2).words["note"]
    assert 0 < len(words) < 60
    assert all(w.text == "fever" for w in words)


def test_cells_are_those_measured(model, patient, collator):
    cells = explained(model, patient, collator, 1, steps=8).cells["labs"]
    assert set(cells) == {"CRP", "sex", "age"}
    assert all(value != 0 for value in cells.values())


def test_a_cell_gets_what_its_columns_do(model, patient, collator):
    """With one cell measured all of the panel's total is its own."""
    for field, value in (("CRP", 80.0), ("sex", "other"), ("age", 61.0), ("smoker", "yes")):
        found = explained(model, Patient("p", {"labs": {field: value}}), collator, 1, steps=4)
        assert found.cells["labs"] == {field: pytest.approx(found.total["labs"], abs=1e-7)}
        assert found.total["labs"] != 0


def test_empty_is_there_but_says_nothing(model, collator):
    found = explained(model, Patient("p", {"note": "", "labs": {}}), collator, 1, steps=2)
    assert found.words == {"note": ()}
    assert found.cells == {"labs": {}}
    assert found.total == {"labs": 0, "note": 0}
    assert found.probability == found.baseline
    assert found.gradient["labs"] > 0


def test_nothing_at_all(model, collator):
    found = explained(model, Patient("p", {}), collator, 1)
    assert found.probability == found.baseline
    assert found.completeness_error == 0
    assert (found.gradient, found.total, found.pixels, found.words, found.cells) == ({}, {}, {}, {}, {})


def test_the_model_is_left_as_it_was(model, patient, collator):
    batch = collator([patient])
    with torch.no_grad():
        before = model.probability(model.observe(model.encode(batch)))
    model.train()
    try:
        explained(model, patient, collator, 1, steps=2)
        assert model.training
        assert model.encoders.training
    finally:
        model.eval()
    with torch.no_grad():
        assert torch.equal(model.probability(model.observe(model.encode(batch))), before)
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_change_nothing(model, patient, collator):
    free = explained(model, patient, collator, 1, steps=2)
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        model.requires_grad_(False)
        frozen = explained(model, patient, collator, 1, steps=2)
    finally:
        for p in trainable:
            p.requires_grad_(True)
    assert frozen.gradient == free.gradient
    assert frozen.total == free.total


class Bag(nn.Module):
    """A user's own text encoder, with no word embedding for the path to enter."""

    def forward(self, texts):
        return torch.nn.functional.one_hot(texts.input_ids % 16, 16).float(), texts.lengths


def test_a_users_own_encoder_is_held_as_it_is(model, patient, collator, monkeypatch):
    monkeypatch.setitem(model.encoders.encoders._modules, "note", Bag())
    found = explained(model, patient, collator, 1, steps=32)
    assert found.gradient["note"] > 0
    assert set(found.total) == {"xray", "labs"}
    assert found.words == {}
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

    def probability(self, x):
        return x @ self.weight.T


def test_of_a_linear_model(patient):
    model = Linear()
    pixels = patient.modalities["xray"]
    found = explained(model, Patient("p", {"xray": pixels}), Collator(model.task), 1, steps=3)
    weight = model.weight[1].view(2, 16, 24)
    torch.testing.assert_close(found.pixels["xray"], weight * (pixels - blurred(pixels[None])[0]))
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
    torch.testing.assert_close(found.pixels["xray"], expected.pixels["xray"])
    assert found.gradient == expected.gradient


def test_a_model_that_reads_ids_alone_is_held_as_it_is(model, patient, collator, monkeypatch):
    monkeypatch.setattr(model.encoders.encoders["note"], "by_vectors", False)
    found = explained(model, patient, collator, 1, steps=32)
    assert found.gradient["note"] > 0
    assert set(found.total) == {"xray", "labs"}
    assert found.words == {}


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
    assert set(explained(model, patient, collator, 1, steps=1).cells["labs"]) == {"CRP", "sex", "age"}


def test_gradient_norms_are_those_of_autograd(model, patient, collator):
    """Against the gradient with respect to what each encoder gave, taken at the encoder."""
    given = {}

    def keep(name):
        def hook(_, args, output):
            given[name] = output[0].detach().requires_grad_()
            return given[name], output[1]

        return hook

    hooks = [e.register_forward_hook(keep(n)) for n, e in model.encoders.encoders.items()]
    try:
        p = model.probability(model.observe(model.encode(collator([patient]))))[0, 1]
    finally:
        for hook in hooks:
            hook.remove()
    expected = torch.autograd.grad(p, list(given.values()))
    found = explained(model, patient, collator, 1, steps=1).gradient
    for name, part in zip(given, expected, strict=True):
        assert found[name] == pytest.approx(part.norm().item(), rel=1e-5)


class Counting:
    """What it stands for, and how often it was asked."""

    def __init__(self, what):
        self.what, self.calls = what, 0

    def __call__(self, *args):
        self.calls += 1
        return self.what(*args)

    def __getattr__(self, name):
        return getattr(self.what, name)


def test_a_patient_is_read_once_for_an_explanation(model, patient, collator, monkeypatch):
    counting, tokenize = Counting(collator), Counting(collate.tokenize)
    monkeypatch.setattr(collate, "tokenize", tokenize)
    explain_patient(model, replace(patient, modalities={"note": "never read"}), counting, draws=4, steps=2)
    assert (counting.calls, tokenize.calls) == (1, 1)


def with_default(device, function):
    def wrapped(*args):
        with torch.device(device):
            return function(*args)

    return wrapped


def test_all_tensors_are_made_on_the_models_device(model, patient, collator, monkeypatch):
    """With another default device, here one that holds no numbers, whatever is made without saying where
    cannot meet what the model holds. (captum makes its weights anywhere and moves them.)"""
    expected = explain_patient(model, patient, collator, draws=4, steps=3)
    reading = read(model, patient, collator)
    monkeypatch.setattr(explain, "read", lambda *_: reading)
    for name, device in (("integrate", "cpu"), ("probability", "meta")):
        monkeypatch.setattr(StraightPath, name, with_default(device, getattr(StraightPath, name)))
    with torch.device("meta"):
        found = explain_patient(model, patient, collator, draws=4, steps=3)
    assert found.to_json() == expected.to_json()


def test_encoders_that_others_trained_are_explained_as_well(tmp_path):
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
    model = RobustMDiff(task, ModelConfig(d_h=8, heads=2, width=16, depth=1), concept_table())
    nn.init.normal_(model.head.weight)
    pixels = torch.rand(1, 18, 18, generator=torch.Generator().manual_seed(1))
    patient = Patient("p", {"xray": pixels, "note": "no feverish cough"})
    found = explained(model.eval(), patient, Collator(task, tokenizer), 1, steps=64)
    assert [w.text for w in found.words["note"]] == ["no", "feverish", "cough"]
    assert found.pixels["xray"].shape == (1, 18, 18)
    assert abs(found.completeness_error) < 1e-3 * max(map(abs, found.total.values()))


def test_blur_keeps_the_mean_of_a_flat_image_and_loses_a_dot():
    flat = torch.full((1, 2, 16, 24), 7.0)
    torch.testing.assert_close(blurred(flat), flat)
    dot = torch.zeros(1, 1, 16, 24)
    dot[0, 0, 8, 12] = 1
    assert blurred(dot).max() < 0.05
    assert blurred(dot).sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("change", "message"), [
    ({"target": 3}, "target is 3, expected a class from 0 to 2"),
    ({"steps": 0}, "steps is 0, expected at least 1"),
])  # fmt: skip
def test_wrong_arguments(model, patient, collator, change, message):
    with pytest.raises(ValueError, match=message):
        explained(model, patient, collator, **({"target": 1} | change))
