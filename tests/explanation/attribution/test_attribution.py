"""What each part of a patient's data did for a class."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from robustmdiff.data import collate
from robustmdiff.data.patient import Patient
from robustmdiff.encoders.image import blurred
from robustmdiff.explanation import explain
from robustmdiff.explanation.attribution import StraightPath, read
from robustmdiff.explanation.explain import explain_patient
from tests.explanation.attribution.task import TEXT, explained


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
    assert found.parts["xray"].shape == (2, 16, 24)
    assert found.parts["xray"].sum().item() == pytest.approx(found.total["xray"], rel=1e-3)
    assert sum(w.attribution for w in found.parts["note"]) == pytest.approx(found.total["note"], rel=1e-3)
    assert sum(found.parts["labs"].values()) == pytest.approx(found.total["labs"], rel=1e-3)


def test_probability_is_that_of_the_direct_path(model, patient, collator):
    found = explained(model, patient, collator, 0, steps=1)
    with torch.no_grad():
        p = model.direct(model.encode(collator([patient])))
    assert found.probability == pytest.approx(p[0, 0].item(), abs=1e-6)


def test_baseline_is_a_patient_whose_modalities_say_nothing(model, patient, collator):
    """An empty panel and a blurred image can be given to the model as such."""
    both = replace(patient, modalities={k: patient.modalities[k] for k in ("xray", "labs")})
    silent = replace(patient, modalities={"xray": blurred(patient.modalities["xray"][None])[0], "labs": {}})
    found = explained(model, both, collator, 1, steps=1)
    with torch.no_grad():
        p = model.direct(model.encode(collator([silent])))
    assert found.baseline == pytest.approx(p[0, 1].item(), abs=1e-6)
    assert abs(found.probability - found.baseline) > 1e-4  # far beyond what "equal" was allowed


def test_words_are_whole_and_where_they_stand(model, patient, collator):
    words = explained(model, patient, collator, 1, steps=2).parts["note"]
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
    words = explained(model, replace(patient, modalities={"note": text}), collator, 1, steps=2).parts["note"]
    assert " ".join(w.text for w in words) == expected
    assert all(text[w.start : w.end] == w.text for w in words)
    assert all(a.end <= b.start for a, b in pairwise(words))


def test_a_text_beyond_the_longest_is_read_to_its_cut(model, patient, collator):
    long = replace(patient, modalities={"note": "fever " * 60})
    words = explained(model, long, collator, 1, steps=2).parts["note"]
    assert 0 < len(words) < 60
    assert all(w.text == "fever" for w in words)


def test_cells_are_those_measured(model, patient, collator):
    cells = explained(model, patient, collator, 1, steps=8).parts["labs"]
    assert set(cells) == {"CRP", "sex", "age"}
    assert all(value != 0 for value in cells.values())


def test_a_cell_gets_what_its_columns_do(model, patient, collator):
    """With one cell measured all of the panel's total is its own."""
    for field, value in (("CRP", 80.0), ("sex", "other"), ("age", 61.0), ("smoker", "yes")):
        found = explained(model, Patient("p", {"labs": {field: value}}), collator, 1, steps=4)
        assert found.parts["labs"] == {field: pytest.approx(found.total["labs"], abs=1e-7)}
        assert found.total["labs"] != 0


def test_empty_is_there_but_says_nothing(model, collator):
    found = explained(model, Patient("p", {"note": "", "labs": {}}), collator, 1, steps=2)
    assert found.parts == {"note": (), "labs": {}}
    assert found.total == {"labs": 0, "note": 0}
    assert found.probability == found.baseline
    assert found.gradient["labs"] > 0


def test_nothing_at_all(model, collator):
    found = explained(model, Patient("p", {}), collator, 1)
    assert found.probability == found.baseline
    assert found.completeness_error == 0
    assert (found.gradient, found.total, found.parts) == ({}, {}, {})


def test_the_model_is_left_as_it_was(model, patient, collator):
    batch = collator([patient])
    with torch.no_grad():
        before = model.direct(model.encode(batch))
    model.train()
    try:
        explained(model, patient, collator, 1, steps=2)
        assert model.training
        assert model.encoders.training
    finally:
        model.eval()
    with torch.no_grad():
        assert torch.equal(model.direct(model.encode(batch)), before)
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
        p = model.direct(model.encode(collator([patient])))[0, 1]
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
