"""A generator that is asked by whoever knows patients of a diagnosis model's task."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import Patient
from robustmdiff.experiment.studies import load_study
from robustmdiff.generation.imagined import Imaginer, parts_of
from robustmdiff.generation.pretrained import load_generator
from robustmdiff.refusal import Refusal
from tests.generation.conftest import SOURCE

MRI = ("mri_T1w", "mri_T2w", "mri_PDw")
HOW = {"draws": 2, "guidance": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def study():
    return load_study(SOURCE)


@pytest.fixture(scope="module")
def imagine(tiny_run, study):
    return Imaginer(load_generator(tiny_run / "model"), study.task, {"model": "MedM2G", "model_sha256": "f"})


@pytest.fixture(scope="module")
def patient(study):
    """With everything, the MRI as the cohort has it: one image of three contrasts."""
    (found,) = [p for p in study.patients["test"] if all(map(p.has, study.task.modality_names))][:1]
    return replace(found, id="")


def opened(draw):
    return [
        Image.open(io.BytesIO(base64.b64decode(each["picture"].removeprefix("data:image/png;base64,"))))
        for each in draw
    ]


def test_what_it_makes_are_the_task_s_own_images_and_texts(imagine):
    assert {*imagine.makes} == {"xray", "ct", "mri", "text"}
    assert imagine.parts["mri"] == MRI
    assert imagine.parts["structured"] == ("structured",)


def test_contrasts_that_the_generator_knows_apart_are_one_image_again(imagine, patient):
    asked = replace(patient, modalities={"text": patient.modalities["text"]})
    said = imagine(asked, ["mri"], **HOW)
    assert [[each["name"] for each in draw] for draw in said["images"]["mri"]] == [["T1w", "T2w", "PDw"]] * 2
    (made,) = imagine.model.generate([asked], MRI, **HOW)
    low, high = imagine.task.modality("mri").low_high
    for number, draw in enumerate(said["images"]["mri"]):
        for name, picture in zip(MRI, opened(draw), strict=True):
            shown = low + np.asarray(picture, np.float64) / (2**16 - 1) * (high - low)
            np.testing.assert_allclose(shown, made.made[name][number][0], atol=(high - low) / 2**16)
    assert said["how"] == {"mri": "drawn from the prompts text"}


def test_each_picture_says_that_it_is_synthetic_and_where_from(imagine, patient):
    said = imagine(replace(patient, modalities={}), ["ct"], **HOW)
    assert said["synthetic"] is True
    for number, draw in enumerate(said["images"]["ct"], start=1):
        assert len(draw) == 4
        for picture in opened(draw):
            assert picture.info["Title"] == "synthetic"
            assert picture.info["Comment"] == f"{said['how']['ct']}, seed 3, draw {number}"
    assert said["provenance"] == {"model": "MedM2G", "model_sha256": "f", "given": [], "steps": 8, **HOW}


def test_it_rests_on_what_the_patient_has_and_never_on_what_is_asked_for(imagine, patient):
    said = imagine(patient, ["xray"], **HOW)
    given = [name for name in imagine.task.modality_names if name in imagine.parts and name != "xray"]
    assert said["provenance"]["given"] == given
    assert "mri" in given
    blind = replace(patient, modalities={n: v for n, v in patient.modalities.items() if n != "xray"})
    assert imagine(blind, ["xray"], **HOW) == said
    other = replace(patient, modalities={n: v for n, v in patient.modalities.items() if n != "mri"})
    assert imagine(other, ["xray"], **HOW)["images"] != said["images"]


def test_texts_are_lists_and_draws_depend_on_the_seed_alone(imagine, patient):
    first, again = (imagine(patient, ["text", "xray"], **HOW) for _ in range(2))
    assert first == again
    assert [type(text) for text in first["texts"]["text"]] == [str, str]
    other = imagine(patient, ["text", "xray"], **HOW | {"seed": 4})
    assert other["images"] != first["images"]


@pytest.mark.filterwarnings("ignore:.*(no known phrase|no word of it|read up to character)")
def test_what_is_not_read_of_a_text_is_said(imagine):
    said = imagine(Patient("", {"text": "火 火"}), ["xray"], **HOW)
    assert said["unread"] == ["modality 'text': no word of it is known"]
    long = imagine(Patient("", {"text": "fever " * 500}), ["xray"], **HOW)
    assert "tokens, read up to character" in long["unread"][0]
    assert imagine(Patient("", {"text": "fever"}), ["xray"], **HOW)["unread"] == []


def test_a_generator_of_other_patients_is_refused(imagine, study):
    known = imagine.model.task
    smaller = [replace(m, shape=(1, 8, 8)) if m.name == "xray" else m for m in study.task.modalities]
    with pytest.raises(Refusal, match=r"'xray': shape is \(1, 16, 16\), expected \(1, 8, 8\)"):
        parts_of(replace(study.task, modalities=tuple(smaller)), known)
    fewer = [m for m in study.task.modalities if m.name != "ct"]
    with pytest.raises(Refusal, match="the generator knows ct, expected this task's modalities"):
        parts_of(replace(study.task, modalities=tuple(fewer)), known)
    two = [replace(m, shape=(2, 16, 16), channels=("T1w", "T2w")) if m.name == "mri" else m for m in fewer]
    with pytest.raises(Refusal, match="the generator knows ct, mri_PDw, expected"):
        parts_of(replace(study.task, modalities=tuple(two)), known)


def test_a_generator_that_knows_less_does_not_read_the_rest(imagine, study):
    more = replace(study.task, modalities=(*study.task.modalities, Modality("notes", "text")))
    assert "notes" not in parts_of(more, imagine.model.task)
