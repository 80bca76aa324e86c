from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.mimic_cxr import (
    CLASSES,
    load_mimic_cxr,
    published_split,
    report_sections,
    verify,
)
from robustmdiff.data.splits import load_split, save_split
from robustmdiff.data.study import texts_of
from robustmdiff.data.tokenizer import train_tokenizer

METADATA = (  # dicom_id, subject_id, study_id, ViewPosition, grey; None: no file
    ("02aa804e", "10000032", "50414267", "AP", 30),
    ("174413ec", "10000032", "50414267", "PA", 60),
    ("3f1a25b7", "10000032", "50414267", "LATERAL", 90),
    ("2a2277a9", "10000032", "53189527", "LL", 120),
    ("e084de3b", "10000764", "57375967", "AP", None),
    ("68b5c4b1", "10000764", "57375967", "", 150),
)
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation, pleural effusion or pneumothorax.  Ratio: 0.4.
 Bilateral nodular opacities.

 IMPRESSION:

 No acute cardiopulmonary process.
"""
UNHEADED = """                                 FINAL REPORT
 HISTORY:  Cough.

 Compared to the prior study there is no change.

 The lungs are
 clear.
"""


def table(path, header, rows, pack=True):
    with (gzip.open if pack else open)(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def metadata(root, rows=METADATA, pack=True):
    header = (
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
    )
    name = f"mimic-cxr-2.0.0-metadata.csv{'.gz' if pack else ''}"
    cells = [
        (image, person, study, "CHEST (PA AND LAT)", view, "3056") for image, person, study, view, _ in rows
    ]
    table(root / name, header, cells, pack)
    return root


def chexpert(root, *rows):
    table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *CLASSES), rows)


def collection(root, pack=True):
    for image, person, study, _, grey in METADATA:
        folder = root / "files" / f"p{person[:2]}" / f"p{person}" / f"s{study}"
        folder.mkdir(parents=True, exist_ok=True)
        if grey is not None:
            Image.fromarray(np.full((6, 4), grey, np.uint8)).save(folder / f"{image}.jpg", quality=100)
    (root / "files/p10/p10000032/s50414267.txt").write_text(REPORT, encoding="utf-8")
    reports = root / "mimic-cxr-reports/files/p10/p10000764"
    reports.mkdir(parents=True)
    (reports / "s57375967.txt").write_text(UNHEADED, encoding="utf-8")
    return metadata(root, pack=pack)


@pytest.mark.parametrize("pack", [True, False])
def test_a_study_has_its_views_and_texts(tmp_path, pack):
    patients, task = load_mimic_cxr(collection(tmp_path, pack), image_size=6)
    first, second, third = patients
    assert [patient.id for patient in patients] == ["s50414267", "s53189527", "s57375967"]
    assert [patient.group for patient in patients] == ["p10000032", "p10000032", "p10000764"]
    for patient, view, grey in ((first, "frontal", 60), (first, "lateral", 90), (second, "lateral", 120)):
        image = patient.modalities[view].pixels()
        assert image.shape == (1, 6, 6)
        assert image.max() == pytest.approx(grey / 255, abs=1 / 255)  # PA before AP
    assert not second.has("frontal")
    assert not third.has("frontal")  # listed and not there; the other says no view
    assert first.modalities["indication"] == "___F with new onset ascites // eval for infection"
    assert first.modalities["report"] == (
        "There is no focal consolidation, pleural effusion or pneumothorax. Ratio: 0.4. Bilateral nodular "
        "opacities. No acute cardiopulmonary process."
    )
    assert (second.modalities["report"], second.modalities["indication"]) == (None, None)
    assert (third.modalities["report"], third.modalities["indication"]) == ("The lungs are clear.", "Cough.")
    batch = Collator(task, train_tokenizer(texts_of(patients, task)))(patients)
    assert batch.presence.sum() == 7
    assert verify(tmp_path) == {
        **{"studies": 3, "people": 2, "images of a known view": 5},
        **{"studies with a frontal image here": 1, "studies with a lateral image here": 2, "reports here": 2},
    }


def test_sections_are_those_that_say_something():
    assert report_sections(REPORT) == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "___F with new onset ascites // eval for infection",
        "technique": "Chest PA and lateral",
        "comparison": "None.",
        "findings": "There is no focal consolidation, pleural effusion or pneumothorax. Ratio: 0.4. "
        "Bilateral nodular opacities.",
        "impression": "No acute cardiopulmonary process.",
        "last paragraph": "No acute cardiopulmonary process.",
    }
    assert report_sections("") == {}
    assert report_sections(" FINDINGS:\n\n IMPRESSION: \n") == {}
    assert report_sections(UNHEADED) == {"history": "Cough.", "last paragraph": "The lungs are clear."}


def test_uncertain_and_unmentioned_labels_are_unknown(tmp_path):
    row = dict.fromkeys(CLASSES, "") | {"Atelectasis": "1.0", "Edema": "0.0", "Pneumonia": "-1.0"}
    chexpert(collection(tmp_path), ("10000032", "50414267", *row.values()), ("1", "99", *row.values()))
    with pytest.warns(UserWarning, match=r"column 'Pneumonia': .*uncertain \(-1\) is read as unknown: 1"):
        patients, task = load_mimic_cxr(tmp_path)
    assert [patient.labels for patient in patients] == [{"Atelectasis": True, "Edema": False}, {}, {}]
    assert (task.classes, task.multilabel) == (CLASSES, True)


def test_the_published_split_is_one_that_studies_can_be_loaded_with(tmp_path):
    rows = [(image, study, person) for image, person, study, *_ in METADATA]
    part = {"50414267": "train", "53189527": "train", "57375967": "validate"}
    name = collection(tmp_path) / "mimic-cxr-2.0.0-split.csv.gz"
    table(name, ("dicom_id", "study_id", "subject_id", "split"), [(*row, part[row[1]]) for row in rows])
    split = published_split(tmp_path)
    assert split == {"train": ("s50414267", "s53189527"), "calibration": ("s57375967",), "test": ()}
    save_split(tmp_path / "split.json", split)
    assert load_split(tmp_path / "split.json", load_mimic_cxr(tmp_path)[0]) == split
    table(name, ("study_id", "split"), [("1", "train"), ("1", "test")])
    with pytest.raises(
        DataError, match=r"split\.csv\.gz:3, column 'split': is 'test', expected that of the same"
    ):
        published_split(tmp_path)
    table(name, ("study_id", "split"), [("1", "")])
    with pytest.raises(DataError, match="column 'split': is '', expected one of train, validate, test"):
        published_split(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("02aa804e", "10000032", "7", "PA", None),
            r":8, column 'dicom_id': .* each image once \(.*csv\.gz:2\)",
        ),
        (
            ("a", "10000764", "50414267", "PA", None),
            r"column 'subject_id': is '10000764', expected 10000032 as",
        ),
        (("a", "", "7", "PA", None), "column 'subject_id': is '', expected an id"),
        (("../../a", "1", "7", "PA", None), r"column 'dicom_id': is '../../a', expected an id"),
    ],
)
def test_rows_that_do_not_match_are_refused_or_skipped(tmp_path, row, message):
    metadata(collection(tmp_path), (*METADATA, row))
    with pytest.raises(DataError, match=message):
        load_mimic_cxr(tmp_path)
    bad = BadRows(skip=True)
    load_mimic_cxr(tmp_path, bad=bad)
    assert len(bad.problems) == 1


def test_labels_of_another_person_and_a_report_that_is_no_text_are_refused(tmp_path):
    chexpert(collection(tmp_path), ("10000764", "50414267", *[""] * len(CLASSES)))
    (tmp_path / "files/p10/p10000032/s50414267.txt").write_bytes(b"FINDINGS: \xff")
    with pytest.raises(DataError) as refused:
        load_mimic_cxr(tmp_path)
    assert "column 'subject_id': is '10000764', expected 10000032 as in" in refused.value.args[0]
    assert "s50414267.txt: is not UTF-8 that can be read" in refused.value.args[1]


def test_dicom_of_12_and_16_bits_and_jpeg_come_to_one_scale(tmp_path):
    pytest.importorskip("pydicom", reason="DICOM: pip install 'robustmdiff[clinical]'")
    from tests.data.pictures.dicom import written

    metadata(tmp_path, METADATA[1:4])
    first, second = (tmp_path / "files/p10/p10000032" / name for name in ("s50414267", "s53189527"))
    first.mkdir(parents=True)
    second.mkdir()
    written(first / "174413ec.dcm", np.full((8, 8), 4095, np.uint16), BitsStored=12)
    written(first / "3f1a25b7.dcm", np.full((5, 5), 65535, np.uint16))
    Image.fromarray(np.full((6, 6), 255, np.uint8)).save(second / "2a2277a9.jpg")
    one, other = load_mimic_cxr(tmp_path, image_size=4)[0]
    for image in (one.modalities["frontal"], one.modalities["lateral"], other.modalities["lateral"]):
        np.testing.assert_allclose(image.pixels(), np.ones((1, 4, 4)), rtol=1e-6)
