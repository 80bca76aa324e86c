"""Generation as diffusers has it: saved, loaded, called."""

import json

import numpy as np
import pytest
import torch

from robustmdiff.generation.pipelines import CompletionPipeline, GenerationPipeline, TranslationPipeline
from robustmdiff.generation.pretrained import load_generator
from robustmdiff.refusal import Refusal


@pytest.fixture(scope="module")
def pipe(tiny_run):
    return GenerationPipeline.of(load_generator(tiny_run / "model"))


def seeded(n=3):
    return torch.Generator().manual_seed(n)


def alone(patient, *names):
    return {name: patient.modalities[name] for name in names}


def test_it_comes_back_from_its_folder_and_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "GenerationPipeline"
    asked = {"given": {"text": "fever"}, "to": ["xray", "text"], "num_draws": 2}
    before = pipe(**asked, generator=seeded())
    after = GenerationPipeline.from_pretrained(tmp_path)(**asked, generator=seeded())
    assert all(map(np.array_equal, before.images[0]["xray"], after.images[0]["xray"]))
    assert before.texts == after.texts


def test_another_type_of_numbers_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(Refusal, match=r"torch_dtype is torch\.float16, expected torch\.float32"):
        GenerationPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16)


def test_it_answers_what_the_model_answers(pipe, tiny_run, test_patients):
    patients = test_patients[:3]
    seed = int(torch.randint(2**31, (), generator=seeded()))
    expected = load_generator(tiny_run / "model").generate(patients, ["xray"], steps=3, seed=seed)
    found = pipe(patients, ["xray"], num_inference_steps=3, generator=seeded())
    for one, images, how in zip(expected, found.images, found.how, strict=True):
        assert np.array_equal(one.made["xray"][0], images["xray"][0])
        assert how == one.how


def test_a_generator_of_numbers_goes_on(pipe):
    numbers = seeded()
    one, two = (pipe({"text": "fever"}, ["xray"], generator=numbers).images[0]["xray"] for _ in range(2))
    assert not np.array_equal(one[0], two[0])


@pytest.mark.parametrize(
    ("given", "to"),
    [(("xray",), ["text"]), (("text",), ["xray"]), (("ct",), ["mri_T1w", "text"]), ((), ["xray", "text"])],
    ids=["report from X-ray", "X-ray from text", "two at once", "from nothing"],
)
def test_each_task_is_one_call(pipe, test_patients, given, to):
    found = pipe(alone(test_patients[0], *given), to, generator=seeded())
    assert set(found.images[0]) | set(found.texts[0]) == set(to)


def test_pictures_are_marked(pipe):
    (image,) = pipe({"text": "fever"}, ["xray"], output_type="pil", generator=seeded()).images[0]["xray"]
    assert image.text["Title"] == "synthetic"
    assert image.size == (16, 16)
    with pytest.raises(Refusal, match="output_type is 'jpg', expected one of np, pil"):
        pipe({"text": "fever"}, ["xray"], output_type="jpg")


def test_a_missing_contrast_is_translated_and_nothing_else_is(pipe, test_patients):
    translate = TranslationPipeline(**pipe.components)
    given = alone(test_patients[0], "mri_T1w")
    found = translate(given, ["mri_PDw"], num_draws=3, generator=seeded())
    assert found.how == [{"mri_PDw": "translated from mri_T1w"}]
    assert len(found.images[0]["mri_PDw"]) == 3
    with pytest.raises(Refusal, match="to is 'xray', expected a modality in whose frame an image is given"):
        translate(given, ["xray"])


def test_whatever_is_lacking_is_completed(pipe, test_patients):
    complete = CompletionPipeline(**pipe.components)
    found = complete(alone(test_patients[0], "text", "xray"), generator=seeded())
    assert set(found.images[0]) == {"ct", "mri_T1w", "mri_T2w", "mri_PDw"}
    assert found.texts == [{}]
