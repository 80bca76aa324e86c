from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.iu_xray import load_iu_xray, verify
from tests.data.sources.reports import unpacked, xml

PROJECTIONS = (
    ("1", "1_IM-0001-4001.dcm.png", "Frontal"),
    ("1", "1_IM-0001-3001.dcm.png", "Lateral"),
    ("2", "2_IM-0652-1001.dcm.png", "Frontal"),
    ("2", "2_IM-0652-2001.dcm.png", "Frontal"),
)
REPORTS = (
    (
        "1",
        "normal",
        "normal",
        "Xray Chest PA and Lateral",
        "Positive TB test",
        "None.",
        "Clear.",
        "Normal chest.",
    ),
    ("2", "Cardiomegaly/mild;Aorta/tortuous", "Cardiomegaly", "PA", "", "", "", "Large heart."),
    ("3", "No Indexing", "No Indexing", "PA", "", "", "", ""),
)


def table(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def projections(root, rows=PROJECTIONS):
    table(root / "indiana_projections.csv", ("uid", "filename", "projection"), rows)
    return root


def as_table(root, rows=REPORTS, pictures=True):
    """The form with tables; the grey of a picture is its place in the list, times ten."""
    header = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
    table(root / "indiana_reports.csv", header, rows)
    folder = root / "images" / "images_normalized"
    folder.mkdir(parents=True)
    for number, (_, name, _) in enumerate(PROJECTIONS if pictures else ()):
        Image.fromarray(np.full((6, 4), 10 * number, np.uint8)).save(folder / name)
    return projections(root)


def as_xml(root):
    unpacked(
        root,
        xml("CXR1", ("CXR1_1_IM-0001-4001", "CXR1_1_IM-0001-3001"), FINDINGS="Clear."),
        xml(
            *(
                "CXR2",
                ("CXR2_2_IM-0652-1001", "CXR2_2_IM-0652-2001"),
                ("Cardiomegaly/mild", "Aorta/tortuous"),
            ),
            **{"INDICATION": "", "FINDINGS": "", "IMPRESSION": "Large heart."},
        ),
        xml("CXR3", (), ("No Indexing",), INDICATION="", FINDINGS="", IMPRESSION=""),
    )
    (root / "NLMCXR_png").mkdir()
    for number, (uid, name, _) in enumerate(PROJECTIONS):
        path = root / "NLMCXR_png" / f"CXR{uid}_{name.replace('.dcm', '')}"
        Image.fromarray(np.full((6, 4), 10 * number, np.uint8)).save(path)
    return projections(root)


@pytest.mark.parametrize("layout", [as_table, as_xml])
def test_both_forms_give_the_same_patients(tmp_path, layout):
    patients, task = load_iu_xray(layout(tmp_path), image_size=6)
    assert task.modality_names == ("frontal", "lateral", "indication", "report")
    first, second, third = patients
    assert [patient.id for patient in patients] == ["CXR1", "CXR2", "CXR3"]
    for patient, view, grey in ((first, "frontal", 0), (first, "lateral", 10), (second, "frontal", 20)):
        image = patient.modalities[view].pixels()
        assert image.shape == (1, 6, 6)
        assert image.max() == pytest.approx(grey / 255)
    assert not second.has("lateral")
    assert first.modalities["report"] == "Clear. Normal chest."
    assert first.modalities["indication"] == "Positive TB test"
    assert (second.modalities["report"], second.modalities["indication"]) == ("Large heart.", None)
    assert not any(third.has(name) for name in task.modality_names)
    assert [patient.labels for patient in patients] == [{"normal": True}, {"abnormal": True}, {}]
    assert verify(tmp_path) == {
        **{"reports": 3, "frontal images listed": 3, "lateral images listed": 1, "images present": 4},
        "studies with both views": 1,
    }


def test_images_that_are_not_there_are_absent(tmp_path):
    patients, _ = load_iu_xray(as_table(tmp_path, pictures=False))
    assert not any(patient.has(view) for patient in patients for view in ("frontal", "lateral"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("9", "9.png", "Frontal"), r"projections\.csv:2, column 'uid': is '9', which has no report"),
        (
            ("1", "1_IM-0001-4001.dcm.png", "Oblique"),
            "column 'projection': is 'Oblique', expected one of Frontal",
        ),
        (("1", "1_IM-0001-4001.dcm.png", ""), "column 'projection': is '', expected Frontal or Lateral"),
        (("1", "notes.txt", "Frontal"), "column 'filename': is 'notes.txt', expected a picture"),
        (
            ("1", "2_IM-0652-1001.dcm.png", "Frontal"),
            r"'filename': is '2_IM-0652-1001.dcm.png', which is no image of CXR1 by its report \(1\.xml\)",
        ),
    ],
)
def test_pairs_that_do_not_match_are_refused_by_row(tmp_path, row, message):
    projections(as_xml(tmp_path), [row])
    with pytest.raises(DataError, match=message):
        load_iu_xray(tmp_path)
    load_iu_xray(tmp_path, bad=BadRows(skip=True))


def test_a_study_twice_a_picture_twice_and_no_projections(tmp_path):
    as_table(tmp_path, [REPORTS[0], REPORTS[0]])
    projections(tmp_path, PROJECTIONS[:1])
    with pytest.raises(DataError, match=r"reports\.csv:3, column 'uid': is '1', expected each study once"):
        load_iu_xray(tmp_path)
    (tmp_path / "indiana_projections.csv").unlink()
    with pytest.raises(DataError, match=r"has no indiana_projections\.csv"):
        load_iu_xray(tmp_path, bad=BadRows(skip=True))
    projections(tmp_path)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "CXR1_1_IM-0001-4001.png")
    with pytest.raises(DataError, match=r"as is .*4001.*, expected one of them"):
        load_iu_xray(tmp_path, bad=BadRows(skip=True))


def test_pictures_of_mixed_size_and_depth_become_one_shape_and_scale(tmp_path):
    as_table(tmp_path, pictures=False)
    folder = tmp_path / "images" / "images_normalized"
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / PROJECTIONS[0][1])
    Image.fromarray(np.full((5, 5), 65535, np.uint16)).save(folder / PROJECTIONS[1][1])
    Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).save(folder / PROJECTIONS[2][1])
    first, second, _ = load_iu_xray(tmp_path, image_size=4)[0]
    for image in (first.modalities["frontal"], first.modalities["lateral"], second.modalities["frontal"]):
        np.testing.assert_allclose(image.pixels(), np.ones((1, 4, 4)), rtol=1e-6)
