"""A patient from a command line."""

import json

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.given import read_given
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.task import Task

TASK = Task(
    modalities=(
        Modality("xray", "image", shape=(1, 8, 8)),
        Modality("text", "text"),
        Modality("labs", "values", fields=(Field("crp", "mg/L"),)),
    ),
    classes=("ill", "well"),
    prevalence=(0.5, 0.5),
)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.full((8, 8), 51, np.uint8)).save(path)
    return path


def test_each_kind_is_given_by_its_value_or_its_file(tmp_path, picture):
    (tmp_path / "note.txt").write_text("fever, cough", encoding="utf-8")
    (tmp_path / "labs.json").write_text('{"crp": 7}', encoding="utf-8")
    patient = read_given(TASK, [f"xray={picture}", "text=fever = high", 'labs={"crp": 5}'])
    assert patient.modalities["text"] == "fever = high"
    assert patient.modalities["labs"] == {"crp": 5}
    np.testing.assert_allclose(patient.modalities["xray"], 0.2)
    patient = read_given(TASK, [f"text={tmp_path / 'note.txt'}", f"labs={tmp_path / 'labs.json'}"])
    assert patient.modalities == {"text": "fever, cough", "labs": {"crp": 7}}


def test_a_json_file_names_its_files_relative_to_itself(tmp_path, picture):
    path = tmp_path / "patient.json"
    path.write_text(json.dumps({"xray": "x.png", "text": "", "labs": {"crp": 1}}), encoding="utf-8")
    patient = read_given(TASK, [str(path)])
    assert patient.modalities["text"] == ""
    assert patient.modalities["labs"] == {"crp": 1}
    assert patient.modalities["xray"].shape == (1, 8, 8)
    path.write_text('{"text": null}', encoding="utf-8")
    assert read_given(TASK, [str(path)]).modalities == {}


def test_nothing_is_a_patient_too():
    assert read_given(TASK, []).modalities == {}


def test_a_text_may_be_longer_than_any_file_name_and_hold_any_character():
    text = "fever \0 " * 9000
    assert read_given(TASK, [f"text={text}"]).modalities["text"] == text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["xry=a.png"], r"unknown modality 'xry' \(did you mean 'xray'\?\)"),
        (["patient.json"], "expected modality=value, or a JSON file that is there"),
        (["xray=nowhere.png"], "modality 'xray': is 'nowhere.png', expected a file of an image"),
        (["labs=crp 5"], "modality 'labs': is not JSON"),
        (["text=a", "text=b"], "'text' twice, expected each modality once"),
    ],
)
def test_what_cannot_be_read_is_named(given, sentence):
    with pytest.raises(DataError, match=sentence):
        read_given(TASK, given)


def test_files_that_hold_something_else_are_named(tmp_path):
    note, listed, odd = tmp_path / "note.txt", tmp_path / "list.json", tmp_path / "odd.json"
    note.write_text("fever", encoding="utf-8")
    listed.write_text("[1]", encoding="utf-8")
    odd.write_text('{"text": 5}', encoding="utf-8")
    for given, sentence in (
        (f"xray={note}", r"note\.txt is not"),
        (str(listed), "holds a list, expected a JSON object"),
        (str(odd), "modality 'text': is 5"),
        (str(note), "is not JSON"),
    ):
        with pytest.raises(DataError, match=sentence):
            read_given(TASK, [given])
