"""The COVID-19 image collection: what its rows become, on small copies of its layout."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.chestxray import (
    FIELDS,
    OPTIONAL,
    REQUIRED,
    covid_task,
    load_chestxray,
    verify,
)
from robustmdiff.data.study import readable
from robustmdiff.data.tokenizer import train_tokenizer

HEADER = [*REQUIRED, "temperature", "pO2_saturation", "leukocyte_count", "location", "folder", "doi"]
ROW = {
    "patientid": "7b",
    "offset": "3",
    "sex": "F",
    "age": "61",
    "finding": "Pneumonia/Viral/COVID-19",
    "view": "AP Supine",
    "modality": "X-ray",
    "filename": "a.png",
    "url": "https://radiopaedia.org/cases/covid-19-pneumonia-15",
    "clinical_notes": "Fever. Confirmed COVID-19.",
    "folder": "images",
}

OLD = {
    "patientid": "Patientid",
    "clinical_notes": "clinical notes",
    "pO2_saturation": "pO2 saturation",
    "leukocyte_count": "wbc_count",
}
NOW = {old: new for new, old in OLD.items()}


def collection(
    root: Path, *rows: dict[str, str], header: list[str] | None = None, images: bool = True
) -> Path:
    header = header or HEADER
    (root / "images").mkdir(exist_ok=True)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows([{**ROW, **row}.get(NOW.get(name, name), "") for name in header] for row in rows)
    for row in rows if images else ():
        Image.fromarray(np.full((9, 7), 128, np.uint8)).save(root / "images" / {**ROW, **row}["filename"])
    return root


def test_a_row_becomes_a_patient(tmp_path):
    rows = [
        {},
        {"modality": "CT", "filename": "b.png", "view": "axial", "sex": "", "age": "", "clinical_notes": ""},
    ]
    (xray, ct), task = load_chestxray(collection(tmp_path, *rows), image_size=8)
    assert (xray.id, xray.group, xray.source, xray.age) == ("7b/3/a.png", "7b", "metadata.csv:2", 61)
    assert xray.site == "radiopaedia.org"
    assert xray.labels == {"Pneumonia/Viral/COVID-19": True}
    assert xray.modalities["notes"] == "Fever. Confirmed."
    assert xray.modalities["structured"] == {"sex": "F", "age": 61, "view": "AP Supine"}
    assert (xray.has("xray"), xray.has("ct"), ct.has("xray"), ct.has("ct"), ct.has("notes")) == (
        1,
        0,
        0,
        1,
        0,
    )
    assert ct.modalities["structured"] == {"view": "Axial"}
    assert task.modality("xray").shape == (1, 8, 8)
    assert len(Collator(task, train_tokenizer(["fever"]))([xray, ct])) == 2


@pytest.mark.parametrize(
    ("level", "classes"),
    [
        (1, ("Pneumonia", "No Finding")),
        (2, ("Pneumonia/Viral", "No Finding", "Pneumonia")),
        (3, ("No Finding", "Pneumonia", "Pneumonia/Viral/COVID-19", "Pneumonia/Viral/SARS")),
    ],
)
def test_every_prefix_of_the_finding_is_a_label(tmp_path, level, classes):
    findings = [
        "Pneumonia/Viral/COVID-19",
        "Pneumonia/Viral/SARS",
        "Pneumonia",
        "No Finding",
        "todo",
        "Unknown",
        "",
    ]
    rows = [{"finding": finding, "filename": f"{i}.png"} for i, finding in enumerate(findings)]
    patients, task = load_chestxray(collection(tmp_path, *rows), 8, level)
    assert task.classes == classes
    assert sum(task.prevalence) == pytest.approx(1)
    assert [len(patient.labels) for patient in patients] == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param([OLD.get(name, name) for name in HEADER], id="spring 2020"),
        pytest.param([*REQUIRED, ""], id="without labs, with a trailing empty column"),
        pytest.param([*REQUIRED, *OPTIONAL], id="everything published"),
    ],
)
def test_every_published_header_is_read(tmp_path, header):
    root = collection(tmp_path, {"finding": "COVID-19, ARDS"}, header=header)
    (patient,), task = load_chestxray(root, 8)
    assert task.classes == ("Pneumonia/Viral/COVID-19",)
    assert (patient.group, patient.modalities["notes"]) == ("7b", "Fever. Confirmed.")
    (root / "metadata.csv.gz").write_bytes(gzip.compress((root / "metadata.csv").read_bytes()))
    (root / "metadata.csv").unlink()
    assert load_chestxray(root, 8)[0][0].id == patient.id


def test_oxygen_is_two_quantities(tmp_path):
    rows = [
        {"pO2_saturation": "91"},
        {
            "pO2_saturation": "40",
            "filename": "b.png",
            "url": "https://github.com/ml-workgroup/covid-19-image-repository",
        },
        {
            "pO2_saturation": "340",
            "filename": "c.png",
            "location": "Hannover Medical School, Hannover, Germany",
        },
    ]
    patients, _ = load_chestxray(collection(tmp_path, *rows), 8)
    assert [p.modalities["structured"].get("SpO2") for p in patients] == [91, None, None]
    assert [p.modalities["structured"].get("pO2") for p in patients] == [None, 40, 340]
    assert {field.name: field.unit for field in FIELDS}["pO2"] == "mmHg"


def test_a_missing_image_is_an_absent_modality_and_a_volume_is_left_out(tmp_path):
    rows = [{}, {"filename": "v.nii.gz", "folder": "volumes", "modality": "CT"}]
    root = collection(tmp_path, *rows, images=False)
    (patient,), _ = load_chestxray(root, 8)
    assert not patient.has("xray")
    assert patient.has("notes")
    counts = verify(root)
    assert (counts["rows"], counts["images listed"], counts["images present"]) == (2, 1, 0)


def test_the_covid_task_keeps_to_x_rays_of_pneumonia_from_two_sources(tmp_path):
    eurorad = "https://www.eurorad.org/case/16745"
    rows = [
        {},
        {"filename": "1.png", "finding": "Pneumonia/Bacterial/Klebsiella", "url": eurorad},
        {"filename": "2.png", "finding": "No Finding"},
        {"filename": "3.png", "modality": "CT", "url": eurorad},
        {"filename": "4.png", "url": "https://cureus.com/x"},
    ]
    patients, task = covid_task(collection(tmp_path, *rows), 8)
    assert [list(patient.labels) for patient in patients] == [["COVID-19"], ["other pneumonia"]]
    assert [patient.site for patient in patients] == ["radiopaedia.org", "eurorad.org"]
    assert task.modality_names == ("xray", "notes", "structured")
    Collator(task, train_tokenizer(["fever"]))(patients)


def test_decoded_images_are_kept_in_the_cache(tmp_path):
    root = collection(tmp_path, {})
    (patient,), _ = load_chestxray(root, 8, cache=tmp_path / "cache")
    first = patient.modalities["xray"].pixels()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (patient,), _ = load_chestxray(root, 8, cache=tmp_path / "cache")
    assert np.array_equal(patient.modalities["xray"].pixels(), first)


BAD = {
    "age": ({"age": "sixty"}, r"metadata\.csv:3, column 'age': is 'sixty', expected a number from 0 to 120"),
    "sex": ({"sex": "X"}, r"metadata\.csv:3, column 'sex': is 'X', expected one of f, m"),
    "view": ({"view": "oblique"}, r"metadata\.csv:3, column 'view': is 'oblique'"),
    "modality": ({"modality": "MRI"}, r"column 'modality': is 'MRI', expected one of x-ray, ct"),
    "no modality": ({"modality": ""}, r"column 'modality': is '', expected something"),
    "no patient": ({"patientid": ""}, r"column 'patientid': is '', expected something"),
    "saturation": ({"pO2_saturation": "340"}, r"'pO2_saturation': is '340', expected a number from 0 to 100"),
    "Fahrenheit": ({"temperature": "101"}, r"'temperature': is '101', expected a number from 30 to 45"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        load_chestxray(collection(tmp_path, {}, {"filename": "b.png", **bad}), 8)


def test_an_image_that_is_not_an_image_is_refused_by_row_and_column(tmp_path):
    root = collection(tmp_path, {}, {"filename": "b.png"})
    (root / "images" / "b.png").write_text("<html>404</html>", encoding="utf-8")
    patients, _ = load_chestxray(root, 8)
    with pytest.raises(DataError, match=r"^metadata\.csv:3, column 'filename': b\.png is not an image"):
        readable(patients)
    assert readable(patients, BadRows(skip=True)) == patients[:1]


def test_renamed_missing_and_repeated_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"column 'finding' is missing \(is it 'findings'\?\)"):
        load_chestxray(collection(tmp_path, {}, header=[n.replace("finding", "findings") for n in HEADER]))
    with pytest.raises(DataError, match=r"column 'temprature' is unknown \(did you mean 'temperature'\?\)"):
        load_chestxray(collection(tmp_path, {}, header=[*REQUIRED, "temprature"]))
    with pytest.raises(DataError, match=r"'7b/3/a\.png' is there already \(metadata\.csv:2\)"):
        load_chestxray(collection(tmp_path, {}, {}), 8)
    with pytest.raises(DataError, match=r"has no metadata\.csv, .* \(no such folder\)"):
        load_chestxray(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no row of this task has a known finding"):
        load_chestxray(collection(tmp_path, {"finding": "todo"}), 8)
