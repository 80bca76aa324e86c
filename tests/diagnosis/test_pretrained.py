from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustmdiff.data.collate import Collator
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.pretrained import PretrainedError, save_pretrained
from robustmdiff.encoders.tensors import tensors
from robustmdiff.models import MODELS, load_model


@pytest.fixture
def saved(study, tmp_path):
    save_pretrained(study.model(), tmp_path, kind="robustmdiff", tokenizer=study.tokenizer)
    return tmp_path


def test_a_model_comes_back_as_it_was(study, saved):
    model, tokenizer = load_model(saved)
    assert isinstance(model, RobustMDiff)
    assert model.task == study.cohort.task
    assert model.config == study.config
    assert tokenizer.get_vocab() == study.tokenizer.get_vocab()
    batch = study.collator(study.patients)
    before = study.model()
    expected = before.diagnose(before.encode(batch)).probability
    assert torch.equal(model.diagnose(model.encode(batch)).probability, expected)


def test_a_folder_of_an_earlier_version_loads(study, saved):
    plain = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    plain["config"]["start"] = "noise"
    (saved / "model.json").write_text(json.dumps(plain), encoding="utf-8")
    assert load_model(saved)[0].config == study.config


def as_before_signs(folder, **then):
    """The folder as a version wrote it that knew evidence of findings alone; `then` renames more weights."""
    plain = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del plain["config"]["class_evidence"]
    (folder / "model.json").write_text(json.dumps(plain), encoding="utf-8")
    state = load_file(folder / "model.safetensors")
    del state["log_tau"]
    for name, now in (then | {"finding_rows": "sign_rows", "finding_prior": "sign_prior"}).items():
        state[name] = state.pop(now)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_the_weights_of_an_earlier_version_load_under_their_new_names(study, saved):
    """What projects the findings' concepts was once called R, as the relevance matrix is."""
    as_before_signs(saved, **{"R.weight": "evidence.E.weight"})
    batch, expected = study.collator(study.patients), study.model()
    model, _ = load_model(saved)
    p = model.diagnose(model.encode(batch)).probability
    assert torch.equal(p, expected.diagnose(expected.encode(batch)).probability)


def test_how_it_answers_comes_back_and_of_an_earlier_version_stays_what_it_was(study, tmp_path):
    model, batch = study.model(), study.collator(study.patients)
    expected = model.diagnose(model.encode(batch)).probability
    with torch.no_grad():
        model.log_weight += torch.linspace(0, 2, 12)
        model.temperature += torch.arange(7)
        model.undone /= 2
    model.answer = "head"
    save_pretrained(model, tmp_path, kind="robustmdiff", tokenizer=study.tokenizer)
    again, _ = load_model(tmp_path)
    assert again.answer == "head"
    for name in model.added:
        assert torch.equal(getattr(again, name), getattr(model, name))
    assert torch.equal(
        again.diagnose(again.encode(batch)).probability, model.diagnose(model.encode(batch))[0]
    )

    plain = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    (tmp_path / "model.json").write_text(json.dumps(plain | {"answer": "oracle"}), encoding="utf-8")
    with pytest.raises(PretrainedError, match=r"answer is 'oracle', expected one of head, draws"):
        load_model(tmp_path)
    del plain["answer"]
    (tmp_path / "model.json").write_text(json.dumps(plain), encoding="utf-8")
    state = load_file(tmp_path / "model.safetensors")
    state = {name: value for name, value in state.items() if name not in model.added}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    earlier, _ = load_model(tmp_path)
    assert earlier.answer == "draws"
    assert torch.equal(earlier.diagnose(earlier.encode(batch)).probability, expected)


def test_an_earlier_model_without_findings_answers_as_it_did(study, tmp_path):
    """It read no evidence at all; a model of today reads it for the classes."""
    task = replace(study.cohort.task, findings=())
    config, concepts = replace(study.config, class_evidence=False), study.cohort.concepts()
    build = MODELS["robustmdiff"].build
    before = build(task, config, concepts=concepts, tokenizer=study.tokenizer, denoiser=True).eval()
    torch.nn.init.normal_(before.head.weight)
    save_pretrained(before, tmp_path, kind="robustmdiff", tokenizer=study.tokenizer)
    as_before_signs(tmp_path)
    model, _ = load_model(tmp_path)
    batch = tensors(Collator(task, study.tokenizer, 33)([replace(p, findings={}) for p in study.patients]))
    said, expected = (each.diagnose(each.encode(batch)) for each in (model, before))
    assert torch.equal(said.draws, expected.draws)
    assert model.encode(batch).evidence.shape[2] == 0


def test_nothing_unfinished_stays_behind(saved):
    names = {path.name for path in saved.iterdir()}
    assert names == {"model.json", "model.safetensors", "tokenizer.json", "concepts.npz"}


def test_a_truncated_file_of_weights_says_so(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(PretrainedError, match=r"model.safetensors: cannot be read .*expected whole weights"):
        load_model(saved)


def test_weights_of_another_configuration_name_the_first_difference(saved):
    description = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    description["config"]["d_h"] = 12
    (saved / "model.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(
        PretrainedError,
        match=r"weight '.*' is \[.*\], RobustMDiff expects \[.*\]; these weights belong to another",
    ):
        load_model(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "is not JSON", id="damaged"),
        pytest.param('{"format": 99}', "format is 99, expected 1", id="from the future"),
        pytest.param(
            '{"format": 1, "kind": "oracle", "task": {}, "config": {}, "options": {}}',
            "kind is 'oracle', expected one of robustmdiff",
            id="of an unknown kind",
        ),
    ],
)
def test_a_description_that_cannot_be_used(saved, content, message):
    (saved / "model.json").write_text(content, encoding="utf-8")
    with pytest.raises(PretrainedError, match=message):
        load_model(saved)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(PretrainedError, match="no model there"):
        load_model(tmp_path)
