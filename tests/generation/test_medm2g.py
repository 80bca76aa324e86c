"""One model of all modalities: any of them in, any others out."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustmdiff.data.patient import Patient
from robustmdiff.generation import medm2g
from robustmdiff.generation.pretrained import digest, load_generator, save_generator
from robustmdiff.refusal import Refusal

IMAGES = {"xray": 1, "ct": 4, "mri_T1w": 1, "mri_T2w": 1, "mri_PDw": 1}


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_generator(tiny_run / "model")


def only(patient: Patient, *names: str) -> Patient:
    return replace(patient, modalities={name: patient.modalities[name] for name in names})


def same(a, b) -> bool:
    return a == b if isinstance(a, str) else np.array_equal(a, b)


def test_any_modality_comes_from_any_other(model, test_patients):
    patient = test_patients[0]
    for name in (*IMAGES, "text"):
        for given in ("xray", "text", "structured", "mri_T1w"):
            if given == name:
                continue
            (made,) = model.generate([only(patient, given)], [name])
            assert made.given == (given,)
            (drawn,) = made.made[name]
            if name == "text":
                assert isinstance(drawn, str)
                continue
            low, high = model.task.modality(name).low_high
            assert drawn.shape == (IMAGES[name], 16, 16)
            assert drawn.dtype == np.float32
            assert low <= drawn.min() <= drawn.max() <= high


def test_an_image_comes_from_its_frame_where_there_is_one_and_from_prompts_elsewhere(model, test_patients):
    made = model.generate([only(test_patients[0], "text", "mri_T1w")], ["mri_PDw", "ct"])[0]
    assert made.how == {
        "mri_PDw": "translated from mri_T1w",
        "ct": "drawn from the prompts mri_T1w, text",
    } or (made.how == {"mri_PDw": "translated from mri_T1w", "ct": "drawn from the prompts text, mri_T1w"})


def test_nothing_known_is_a_prompt_too(model):
    made = model.generate([Patient("nobody", {})], ["xray", "text"])[0]
    assert made.given == ()
    assert made.how["xray"] == "drawn from the prompts nothing"
    assert made.made["xray"][0].shape == (1, 16, 16)


def test_what_is_asked_for_is_not_looked_at(model, test_patients):
    patient = only(test_patients[0], "text", "xray", "mri_T1w")
    other = replace(patient, modalities={**patient.modalities, "xray": test_patients[1].modalities["xray"]})
    poisoned = replace(patient, modalities={**patient.modalities, "xray": np.full((1, 16, 16), np.nan, "f4")})
    first, *rest = (model.generate([p], ["xray"])[0] for p in (patient, other, poisoned))
    for made in rest:
        assert same(made.made["xray"][0], first.made["xray"][0])


def test_a_patient_s_draws_do_not_depend_on_who_else_is_asked_for(model, test_patients):
    alone = model.generate(test_patients[3:4], ["xray", "text", "mri_PDw"], draws=2)[0]
    among = model.generate(test_patients[:6], ["xray", "text", "mri_PDw"], draws=2)[3]
    for name, draws in alone.made.items():
        for a, b in zip(draws, among.made[name], strict=True):
            if name == "text":
                assert a == b
            else:
                # torch's matrix products round by the number of rows; measured 2e-6 of the window.
                np.testing.assert_allclose(a, b, atol=2e-5)


def test_draws_and_seeds_differ_and_the_same_seed_repeats(model, test_patients):
    patient = only(test_patients[0], "text")
    first, again = (model.generate([patient], ["xray"], draws=2, seed=5)[0] for _ in range(2))
    other = model.generate([patient], ["xray"], draws=2, seed=6)[0]
    assert same(first.made["xray"][0], again.made["xray"][0])
    assert not same(first.made["xray"][0], first.made["xray"][1])
    assert not same(first.made["xray"][0], other.made["xray"][0])


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_any_guidance_and_any_number_of_steps_give_finite_images(model, test_patients, guidance, steps):
    made = model.generate([only(test_patients[0], "text")], ["xray"], guidance=guidance, steps=steps)[0]
    assert np.isfinite(made.made["xray"][0]).all()


def test_without_guidance_the_prompt_does_not_matter(model, test_patients):
    a, b = (replace(only(p, "text"), id="same") for p in test_patients[:2])
    made = [model.generate([p], ["xray"], guidance=0)[0].made["xray"][0] for p in (a, b)]
    assert same(*made)


def test_completion_makes_what_is_lacking_and_nothing_else(model, test_patients):
    patient = only(test_patients[0], "text", "mri_T1w", "structured")
    made = model.complete(patient)
    assert set(made.made) == {"xray", "ct", "mri_T2w", "mri_PDw"}
    assert model.complete(test_patients[0]).made == {}


def test_votes_decide_what_a_text_says(model, test_patients):
    patient = only(test_patients[0], "xray")
    made = model.generate([patient], ["text"], votes=16)[0]
    again = model.generate([patient], ["text"], votes=16)[0]
    assert made.made["text"] == again.made["text"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"to": ["xry"]}, r"unknown modality 'xry' \(did you mean 'xray'\?\)"),
        ({"to": ["structured"]}, "unknown modality 'structured'"),
        ({"to": []}, "to is empty"),
        ({"to": ["xray"], "draws": 0}, "draws is 0, expected at least 1"),
        ({"to": ["xray"], "steps": 0}, "steps is 0, expected at least 1"),
        ({"to": ["text"], "votes": 0}, "votes is 0, expected at least 1"),
        ({"to": ["xray"], "guidance": -1}, "guidance is -1, expected a number from 0"),
        ({"to": ["xray"], "guidance": float("nan")}, "guidance is nan"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, test_patients, options, sentence):
    with pytest.raises(Refusal, match=sentence):
        model.generate(test_patients[:1], **options)


def test_an_image_of_another_size_is_refused(model):
    with pytest.raises(Refusal, match=r"\[1, 8, 8\], expected float32 \[1, 16, 16\]"):
        model.generate([Patient("p", {"mri_T1w": np.zeros((1, 8, 8), np.float32)})], ["mri_T2w"])


def test_an_empty_prompt_says_nothing_and_one_too_long_or_unknown_is_told(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate([Patient("p", {"text": ""})], ["xray"])
    with pytest.warns(UserWarning, match=r"tokens, read up to character \d+ of"):
        model.generate([Patient("p", {"text": "fever " * 500})], ["xray"])
    with pytest.warns(UserWarning, match="no word of it is known"):
        model.generate([Patient("p", {"text": "你好"})], ["xray"])


def test_where_memory_ends_fewer_at_once_are_tried():
    seen = []

    def make(rows: list[int]) -> list[int]:
        seen.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        return rows

    with pytest.warns(UserWarning, match="memory is not enough for 10 at once: trying 5"):
        assert medm2g.in_parts(make, list(range(10))) == list(range(10))
    assert seen == [10, 5, 2, 2, 2, 2, 2]

    def never(rows: list[int]) -> list[int]:
        raise torch.OutOfMemoryError

    with pytest.warns(UserWarning, match="trying 1"), pytest.raises(torch.OutOfMemoryError):
        medm2g.in_parts(never, [0, 1])


def test_a_saved_generator_makes_the_same(model, test_patients, tmp_path):
    save_generator(model, tmp_path / "copy")
    copy = load_generator(tmp_path / "copy")
    a, b = (m.generate(test_patients[:1], ["xray", "text", "mri_PDw"])[0].made for m in (model, copy))
    assert all(same(a[name][0], b[name][0]) for name in a)
    assert digest(tmp_path / "copy") == digest(tmp_path / "copy")


def test_a_folder_that_holds_no_generator_is_named(tmp_path):
    with pytest.raises(Refusal, match=r"model\.json: no generator there"):
        load_generator(tmp_path)
    (tmp_path / "model.json").write_text("{", encoding="utf-8")
    with pytest.raises(Refusal, match="is not JSON"):
        load_generator(tmp_path)
    (tmp_path / "model.json").write_text('{"format": 9, "kind": "generator"}', encoding="utf-8")
    with pytest.raises(Refusal, match="format 9, expected 'generator', 1"):
        load_generator(tmp_path)


def test_a_truncated_file_is_named(model, tmp_path):
    save_generator(model, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(Refusal, match=r"model\.safetensors: cannot be read"):
        load_generator(tmp_path)
