"""A folder of one's own: what is read of it, and what is refused, by file, row and column."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.folder import folder_split, load_folder, stream_folder, write_template
from robustmdiff.data.study import readable
from robustmdiff.data.task_file import task_from
from robustmdiff.data.tokenizer import train_tokenizer
from tests.data.pictures.dicom import AXIAL, written


@pytest.fixture
def folder(tmp_path) -> Path:
    write_template(tmp_path / "mydata")
    return tmp_path / "mydata"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_template_works_as_it_is(folder):
    patients, task = load_folder(folder)
    batch = Collator(task, train_tokenizer(["cough"]))(patients)
    assert batch.ids == ("p1", "p2", "p3")
    assert batch.presence.tolist() == [[True, True, True], [False, True, True], [True, False, True]]
    assert batch.label.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert batch.findings_known.tolist() == [[True], [True], [False]]
    assert batch.inputs["structured"].present.tolist() == [[True, True], [False, True], [True, False]]
    assert task.prevalence == pytest.approx((3 / 5, 2 / 5))  # of two and one, one added to each
    assert [(p.site, p.age, p.source) for p in patients][:2] == [
        ("north", 61, "patients.csv:2"),
        ("north", None, "patients.csv:3"),
    ]
    assert folder_split(folder) == {"train": ("p1", "p2"), "test": ("p3",)}
    with pytest.raises(DataError, match="is not empty, expected a new folder"):
        write_template(folder)


def test_text_files_tell_empty_from_absent(folder):
    (folder / "patients.csv").write_text(
        "id,xray,notes_file,structured.crp,structured.sex\na,,a.txt,,\nb,,b.txt,,\nc,,,,\n",
        encoding="utf-8",
    )
    (folder / "a.txt").write_text("Dry cough.\n", encoding="utf-8")
    (folder / "b.txt").write_text("", encoding="utf-8")
    patients, _ = load_folder(folder)
    assert [patient.modalities["notes"] for patient in patients] == ["Dry cough.\n", "", None]
    assert patients[2].modalities == {"xray": None, "notes": None, "structured": None}
    assert folder_split(folder) is None
    (folder / "b.txt").unlink()
    with pytest.raises(
        DataError, match=r"patients\.csv:3, column 'notes_file': is 'b\.txt', which cannot be read"
    ):
        load_folder(folder)


def test_pictures_and_arrays_of_several_channels(folder):
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / "images" / "p1.png")
    edit(folder / "patients.csv", "images/p1.npy", "images/p1.png")
    assert np.array_equal(load_folder(folder)[0][0].modalities["xray"].pixels(), np.ones((1, 64, 64)))
    edit(folder / "task.json", "1,\n        64,\n        64\n      ]", '2, 3, 4], "window": [-1000, -980]')
    edit(folder / "patients.csv", "images/p1.png", "images/ct.npy")
    edit(folder / "patients.csv", "images/p3.npy", "")
    ct = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 1000
    np.save(folder / "images" / "ct.npy", ct)
    read = load_folder(folder)[0][0].modalities["xray"].pixels()
    assert read.dtype == np.float32
    assert read.tolist() == ct.tolist()
    edit(folder / "patients.csv", "images/ct.npy", "images/p1.png")
    with pytest.raises(
        DataError,
        match=r"'images/p1\.png', which holds one grey frame, but the modality's shape declares 2 channels",
    ):
        readable(load_folder(folder)[0])


def test_dicom_and_nifti_by_the_words_of_the_task(folder):
    """A CT as a series, another as a volume, in one modality; nothing of the header reaches the patient."""
    ras = np.arange(-500, -500 + 64 * 64 * 4).reshape(64, 64, 4).astype(np.int16) % 1000
    nibabel.save(nibabel.Nifti1Image(ras, np.eye(4)), folder / "images" / "p1.nii.gz")
    (folder / "images" / "p3").mkdir()
    for z in range(4):
        position = {"ImagePositionPatient": ["-63", "-63", str(z)], "ImageOrientationPatient": AXIAL}
        written(folder / "images" / "p3" / f"{z}", np.ascontiguousarray(ras[::-1, ::-1, z].T), **position)
    edit(folder / "task.json", "1,\n        64,\n        64\n      ]", '2, 64, 64], "window": [-1000, 1000]')
    edit(folder / "patients.csv", "images/p1.npy", "images/p1.nii.gz")
    edit(folder / "patients.csv", "images/p3.npy", "images/p3")
    patients, task = load_folder(folder)
    first, _, third = patients
    pixels = first.modalities["xray"].pixels()
    np.testing.assert_array_equal(pixels, third.modalities["xray"].pixels())
    np.testing.assert_array_equal(pixels, np.moveaxis(ras[::-1, ::-1, [1, 3]], 2, 0).swapaxes(1, 2))
    assert "Doe" not in repr(patients)
    assert "12345" not in repr(patients)
    assert task_from(json.loads(json.dumps(task.to_json())), "task") == task
    edit(folder / "task.json", "[-1000, 1000]", '"file"')
    with pytest.raises(DataError, match=r"'images/p1\.nii\.gz', which has no window of its own"):
        readable(load_folder(folder)[0])


def test_images_are_read_when_they_are_asked_for(folder):
    """A file that is damaged is met by whoever reads it, with the words of the table."""
    rows = "".join(f"q{i},,,,,,,images/p1.npy,,,\n" for i in range(40))
    with (folder / "patients.csv").open("a", encoding="utf-8") as table:
        table.write(rows + "bad,,,,,,,images/bad.npy,,,\n")
    (folder / "images" / "bad.npy").write_bytes(b"hello")
    patients, task = load_folder(folder)
    message = r"patients\.csv:45, column 'xray': is 'images/bad\.npy', which is not an array"
    assert len(Collator(task)(patients[3:-1])) == 40
    with pytest.raises(DataError, match=message):
        Collator(task)(patients[-1:])
    edit(folder / "patients.csv", "images/p3.npy", "images/bad.npy")
    patients, _ = load_folder(folder)
    with pytest.raises(DataError) as error:
        readable(patients)
    assert len(error.value.args) == 2
    assert error.value.args[0].startswith("patients.csv:4, column 'xray': is 'images/bad.npy', which is not")
    assert re.match(message, error.value.args[1])
    bad = BadRows(skip=True)
    assert readable(patients, bad) == [*patients[:2], *patients[3:-1]]
    assert bad.problems == list(error.value.args)


def test_a_patient_of_files_is_small_and_can_be_pickled(folder):
    patient = load_folder(folder, cache=folder.parent / "cache")[0][0]
    again = pickle.loads(pickle.dumps(patient))
    assert again == patient
    assert np.array_equal(again.modalities["xray"].pixels(), patient.modalities["xray"].pixels())
    assert len(pickle.dumps(patient)) < 64 * 64 * 4 / 8


def test_images_that_are_all_dark_are_warned_of(folder):
    for name in ("p1", "p3"):
        counts = np.full((64, 64), 1000, np.uint16)
        counts[0, 0] = 4095
        Image.fromarray(counts).save(folder / "images" / f"{name}.png")
    table = (folder / "patients.csv").read_text(encoding="utf-8")
    (folder / "patients.csv").write_text(table.replace(".npy", ".png"), encoding="utf-8")
    said = r'^modality \'xray\': none of 2 images exceeds 0\.0625 .* or "bits": 12\?$'
    for read in (load_folder, lambda folder: list(stream_folder(folder))):
        with pytest.warns(UserWarning, match=said):
            read(folder)
    edit(folder / "task.json", '"kind": "image"', '"kind": "image", "bits": 12')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patients, _ = load_folder(folder)
    assert patients[0].modalities["xray"].pixels()[0, 5, 5] == np.float32(1000 / 4095)


def test_labels_of_several_classes_a_yaml_task_and_a_compressed_table(folder):
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    (folder / "task.json").unlink()
    lines = ["multilabel: true", "ignore: [comment]", f"classes: {task['classes']}"]
    lines += ["modalities:", "  - {name: notes, kind: text}"]
    (folder / "task.yaml").write_text("\n".join(lines), encoding="utf-8")
    (folder / "patients.csv").write_text(
        "id,comment,notes,label:pneumonia,label:no pneumonia\na,x,hi,1,\nb,,ho,0,1\nc,,,,\nd,,,1,1\n",
        encoding="utf-8",
    )
    patients, task = load_folder(folder)
    assert [patient.labels for patient in patients] == [
        {"pneumonia": True},
        {"pneumonia": False, "no pneumonia": True},
        {},
        {"pneumonia": True, "no pneumonia": True},
    ]
    assert task.prevalence == pytest.approx((3 / 5, 3 / 4))  # of two in three and two in two


def test_a_person_s_records_keep_together(folder):
    edit(folder / "patients.csv", "p1,,train", "p1,anna,train")
    edit(folder / "patients.csv", "p3,,test", "p3,anna,test")
    assert load_folder(folder)[0][2].group == "anna"
    with pytest.raises(
        DataError, match=r"patients\.csv:4, column 'split': is 'test', expected 'train'.*'anna'"
    ):
        folder_split(folder)


@pytest.mark.parametrize("suffix", ["xlsx", "parquet"])
def test_a_workbook_and_parquet_say_what_the_csv_says(folder, suffix):
    csv_patients, csv_task = load_folder(folder)
    frame = pd.read_csv(folder / "patients.csv")
    (folder / "patients.csv").unlink()
    write_frame = frame.to_excel if suffix == "xlsx" else frame.to_parquet
    write_frame(folder / f"patients.{suffix}", index=False)
    patients, task = load_folder(folder)
    assert task == csv_task
    assert folder_split(folder) == {"train": ("p1", "p2"), "test": ("p3",)}
    for patient, as_csv in zip(patients, csv_patients, strict=True):
        assert replace(patient, modalities={}, source="") == replace(as_csv, modalities={}, source="")
        assert patient.modalities["structured"] == as_csv.modalities["structured"]
        assert patient.modalities["notes"] == as_csv.modalities["notes"]
        assert patient.has("xray") == as_csv.has("xray")
    where = "sheet 'Sheet1', row 2" if suffix == "xlsx" else "row 1"
    assert patients[0].source == f"patients.{suffix}, {where}"
    frame["structured.crp"] = ["high", None, None]
    write_frame(folder / f"patients.{suffix}", index=False)
    with pytest.raises(DataError, match=rf"patients\.{suffix}, {where}, column 'structured\.crp': is 'high'"):
        load_folder(folder)
    (folder / "patients.csv").write_text("id\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"has patients\.csv and patients\.{suffix}, expected one of them"):
        load_folder(folder)


TABLE = {
    "renamed column": (
        "structured.crp",
        "structured.cpr",
        r"column 'structured\.crp' is missing \(is it 'structured\.cpr'",
    ),
    "unknown column": (
        "finding:fever",
        "finding:fevr",
        r"'finding:fevr' is unknown \(did you mean 'finding:fever'",
    ),
    "missing id column": ("id,group", "ID,group", r"patients\.csv:1: column 'id' is missing"),
    "id twice": (
        "p2,",
        "p1,",
        r"patients\.csv:3, column 'id': is 'p1', expected one not used before \(patients\.csv:2\)",
    ),
    "no id": ("p2,", ",", r"patients\.csv:3, column 'id': is '', expected an id"),
    "label never declared": (
        ",no pneumonia,0",
        ",flu,0",
        r"column 'label': is 'flu', expected one of pneumonia, no pn",
    ),
    "finding that is no flag": (
        ",no pneumonia,0",
        ",no pneumonia,no",
        r"'finding:fever': is 'no', expected one of 1, 0, true, false",
    ),
    "value that is text": (
        ",84,",
        ",high,",
        r"patients\.csv:2, column 'structured\.crp': is 'high', expected a number",
    ),
    "NaN value": (",84,", ",nan,", r"'structured\.crp': is 'nan', expected a number"),
    "infinite value": (
        ",84,",
        ",inf,",
        r"'structured\.crp': is 'inf', expected a number in mg/l, or nothing; write a limit",
    ),
    "unknown category": (",84,F", ",84,W", r"'structured\.sex': is 'W', expected one of F, M"),
    "age": (",61,", ",old,", r"column 'age': is 'old', expected a number from 0 to 150"),
    "no such image": (
        "images/p1.npy",
        "images/px.npy",
        r"column 'xray': is 'images/px\.npy', expected a file under",
    ),
    "missing cell": (",84,F", ",84", r"patients\.csv:2: has 10 cells, expected 11"),
    "text twice": ("id,group", "id,notes_file", r"columns 'notes' and 'notes_file' are both there"),
}


@pytest.mark.parametrize(("old", "new", "message"), TABLE.values(), ids=TABLE.keys())
def test_a_bad_table_is_refused_by_file_row_and_column(folder, old, new, message):
    edit(folder / "patients.csv", old, new)
    with pytest.raises(DataError, match=message):
        load_folder(folder)


TASK = {
    "misspelt key": (
        '"shape"',
        '"shap"',
        r"task\.json: modalities\[0\]: key 'shap' is unknown \(did you mean 'shape'",
    ),
    "unknown kind": (
        '"kind": "image"',
        '"kind": "film"',
        r"modalities\[0\]: Modality 'xray': kind is 'film'",
    ),
    "missing key": ('"kind": "text"', '"cost": 1', r"modalities\[1\]: key 'kind' is missing"),
    "missing classes": ('"classes"', '"findings2"', r"classes is None, expected a list of names"),
    "a reserved name": ('"notes"', '"age"', r"a modality is named 'age', which is a column of its own"),
    "broken JSON": ('"classes"', "classes", r"task\.json: cannot be read"),
    "field": (
        '"unit"',
        '"units"',
        r"modalities\[2\]\.fields\[0\]: key 'units' is unknown \(did you mean 'unit'",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), TASK.values(), ids=TASK.keys())
def test_a_bad_task_is_refused_by_key(folder, old, new, message):
    edit(folder / "task.json", old, new)
    with pytest.raises(DataError, match=message):
        load_folder(folder)


IMAGES = {
    "not an array": (b"hello", r"column 'xray': is 'images/p1\.npy', which is not an array"),
    "wrong shape": (
        np.zeros((1, 32, 64), np.float32),
        r"which has shape \[1, 32, 64\], expected \[1, 64, 64\]",
    ),
    "NaN": (np.full((64, 64), np.nan), r"which holds NaN or infinite values"),
    "objects": (np.array([None]), r"which is not an array"),
}


@pytest.mark.parametrize(("content", "message"), IMAGES.values(), ids=IMAGES.keys())
def test_a_bad_image_is_refused_by_row_and_column(folder, content, message):
    path = folder / "images" / "p1.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    patients, _ = load_folder(folder)
    with pytest.raises(DataError, match=r"patients\.csv:2, .*" + message):
        readable(patients)


def test_a_folder_without_task_table_or_patients_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"has no task\.json or task\.yaml; write_template shows one"):
        load_folder(tmp_path)
    edit(folder / "patients.csv", (folder / "patients.csv").read_text(encoding="utf-8").split("\n", 1)[1], "")
    with pytest.raises(DataError, match=r"patients\.csv has no row"):
        load_folder(folder)
    (folder / "patients.csv").unlink()
    with pytest.raises(DataError, match=r"has no patients\.csv, patients\.csv\.gz, patients\.xlsx or"):
        load_folder(folder)
