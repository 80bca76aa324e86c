import json

import pytest
import torch

from robustmdiff.alignment.pretrained import load_aligned, load_prompts, save_prompts
from robustmdiff.alignment.prompts import PromptEncoders
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import CheckpointError


@pytest.fixture
def model(study, sizes):
    torch.manual_seed(3)
    return PromptEncoders(study.task, sizes, d=5, only=("text", "ct", "structured")).eval()


@pytest.fixture
def folder(model, study, tmp_path):
    save_prompts(model, tmp_path / "aligned", study.tokenizer)
    return tmp_path / "aligned"


def test_what_is_loaded_answers_to_the_bit(study, model, folder):
    loaded, tokenizer = load_prompts(folder)
    assert not loaded.training
    assert (loaded.names, loaded.d, loaded.config) == (model.names, model.d, model.config)
    assert loaded.task == model.task
    one, other = (m.embed(study.patients, t) for m, t in ((model, study.tokenizer), (loaded, tokenizer)))
    assert torch.equal(one.h, other.h)
    assert {p.name for p in folder.iterdir()} == {"model.json", "model.safetensors", "tokenizer.json"}


def test_without_texts_there_is_no_tokenizer(study, sizes, tmp_path):
    save_prompts(PromptEncoders(study.task, sizes, only=["ct"]), tmp_path)
    assert load_prompts(tmp_path)[1] is None


def damage(name, change):
    def do(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return do


def of_json(**change):
    return damage("model.json", lambda old: json.dumps(json.loads(old) | change).encode())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.json").unlink(), r"model\.json: cannot be read"),
        (damage("model.json", lambda old: old[:40]), r"model\.json: cannot be read"),
        (damage("model.json", lambda old: b"{}"), r"model\.json: cannot be read.*format"),
        (of_json(kind="robustmdiff"), r"is of kind 'robustmdiff', format 2, expected aligned encoders"),
        (of_json(format=9), r"format 9, expected"),
        (of_json(d=7), r"weight 'project.*' is \[5, 16\], PromptEncoders expects \[7, 16\]"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: cannot be read"),
        (damage("model.safetensors", lambda old: old[:-9]), r"cannot be read.*expected whole weights"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(folder, spoil, says):
    spoil(folder)
    with pytest.raises(CheckpointError, match=says):
        load_prompts(folder)


def test_a_diagnosis_model_starts_from_aligned_encoders(study, model):
    """Of the modalities that both have; the others stay as they were."""
    diagnosis = study.model()
    before = {k: v.clone() for k, v in diagnosis.state_dict().items()}
    assert set(load_aligned(diagnosis.encoders, model)) == {"ct", "text", "structured"}
    for key, value in diagnosis.state_dict().items():
        name = key.split(".")[2] if key.startswith("encoders.encoders.") else None
        if name in model.names:
            rest = key.split(".", 3)[3]
            assert torch.equal(value, model.encoders.encoders[name].state_dict()[rest]), key
        else:
            assert torch.equal(value, before[key]), key


def test_encoders_of_another_size_are_refused(study, model):
    wider = EncoderConfig(
        d_h=16, layers=1, heads=2, patch=8, max_tokens=33, vocabulary=study.config.vocabulary
    )
    with pytest.raises(Refusal, match=r"modality ct: weight .* expected aligned encoders of the sizes"):
        load_aligned(ModalityEncoders(study.task, wider), model)


def test_encoders_of_other_modalities_are_refused(study, sizes, model):
    other = ModalityEncoders(study.task, sizes, only=["xray"])
    with pytest.raises(Refusal, match=r"the aligned encoders read .*, expected one of xray"):
        load_aligned(other, model)
