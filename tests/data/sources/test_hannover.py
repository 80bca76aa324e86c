from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.hannover import COLUMNS, LABS, load_hannover, verify
from robustmdiff.data.study import readable

REAL = Path(__file__).parents[3] / "../shared/data/hannover_cxr"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real copy ../shared/data/hannover_cxr is not here")


def repository(root: Path, *rows: dict[str, str], header: tuple[str, ...] = COLUMNS) -> Path:
    (root / "png").mkdir(exist_ok=True)
    with (root / "data.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        for i, row in enumerate(rows):
            row = {"patient_id": "p", "image_id": f"i{i}", "projection": "ap", "sex": "w", **row}
            table.writerow([row.get(name, "") for name in header])
            Image.fromarray(np.full((9, 7), 128, np.uint8)).save(root / "png" / f"{row['image_id']}.png")
    return root


def test_values_of_the_image_s_day_and_before_are_known_and_later_ones_are_not(tmp_path):
    rows = [
        {"crp_val": "84", "crp_offset": "-3", "ldh_val": "240", "ldh_offset": "0.0"},
        {"crp_val": "84", "crp_offset": "1", "ldh_val": "240", "ldh_offset": ""},
    ]
    (known, unknown), task = load_hannover(repository(tmp_path, *rows), 8)
    assert known.modalities["structured"] == {"sex": "F", "projection": "ap", "crp": 84, "ldh": 240}
    assert unknown.modalities["structured"] == {"sex": "F", "projection": "ap"}
    assert verify(tmp_path)["lab values after the image, left out"] == 2
    assert {f.name: f.unit for f in task.modality("structured").fields}["factor_xiii"] == "%"
    assert len(Collator(task)([known, unknown])) == 2


def test_a_value_beyond_detection_stands_at_the_end_of_its_range(tmp_path):
    rows = [{"d-dimer_val": value, "d-dimer_offset": "0"} for value in ("-inf", "inf", "2.5")]
    patients, _ = load_hannover(repository(tmp_path, *rows), 8)
    assert [patient.modalities["structured"]["d-dimer"] for patient in patients] == [0.3, 17.1, 2.5]


OUTCOMES = {
    "never in intensive care": ({}, {"icu": False, "death": False}),
    "there later": ({"icu_admission_offset": "2", "icu_release_offset": "8"}, {"icu": True, "death": False}),
    "there now": ({"icu_admission_offset": "-2", "icu_release_offset": "0"}, {"icu": True, "death": False}),
    "there without end": ({"icu_admission_offset": "-2", "death_offset": "5"}, {"icu": True, "death": True}),
    "released before": ({"icu_admission_offset": "-9", "icu_release_offset": "-1"}, {"death": False}),
}


@pytest.mark.parametrize(("row", "outcomes"), OUTCOMES.values(), ids=OUTCOMES.keys())
def test_outcomes_are_what_holds_from_the_image_on(tmp_path, row, outcomes):
    (patient,), task = load_hannover(repository(tmp_path, row), 8)
    assert patient.labels == outcomes
    assert task.multilabel


BAD = {
    "lab": (
        {"crp_val": "high", "crp_offset": "0"},
        r"data\.csv:3, column 'crp_val': is 'high', expected a number",
    ),
    "NaN": ({"crp_val": "nan", "crp_offset": "0"}, r"data\.csv:3, column 'crp_val': is 'nan'"),
    "negative": (
        {"crp_val": "-4", "crp_offset": "0"},
        r"column 'crp_val': is '-4', expected a number of 0 or more",
    ),
    "offset": (
        {"crp_val": "4", "crp_offset": "inf"},
        r"column 'crp_offset': is 'inf', expected a number from -36525",
    ),
    "dead before": ({"death_offset": "-1"}, r"column 'death_offset': is '-1', expected a number from 0"),
    "sex": ({"sex": "x"}, r"column 'sex': is 'x', expected one of f, w, m"),
    "image twice": (
        {"image_id": "i0"},
        r"column 'image_id': is 'i0', which is there already \(data\.csv:2\)",
    ),
    "no patient": ({"patient_id": ""}, r"data\.csv:3: patient_id/image_id is '/i1', expected both"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        load_hannover(repository(tmp_path, {}, bad), 8)


def test_a_bad_image_and_a_missing_column_are_refused(tmp_path):
    root = repository(tmp_path, {})
    (root / "png" / "i0.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"^data\.csv:2, column 'image_id': i0\.png is not an image"):
        readable(load_hannover(root, 8)[0])
    renamed = tuple("CRP_value" if name == "crp_val" else name for name in COLUMNS)
    with pytest.raises(DataError, match=r"column 'crp_val' is missing \(is it 'CRP_value'\?\)"):
        load_hannover(repository(tmp_path, {}, header=renamed))


def test_an_absent_image_file_is_an_absent_modality(tmp_path):
    root = repository(tmp_path, {})
    (root / "png" / "i0.png").unlink()
    (patient,), _ = load_hannover(root, 8)
    assert not patient.has("xray")


@real
def test_the_real_copy_has_the_counts_of_its_readme_and_no_value_from_the_future():
    counts = verify(REAL)
    assert (counts["rows"], counts["images present"], counts["patients"]) == (146, 146, 43)
    assert (counts["lab values"], counts["lab values after the image, left out"]) == (615, 57)
    patients, task = load_hannover(REAL, image_size=16)
    with (REAL / "data.csv").open(newline="", encoding="utf-8") as file:
        rows = {f"{row['patient_id']}/{row['image_id']}": row for row in csv.DictReader(file)}
    for patient in patients:
        values = patient.modalities["structured"]
        for lab, field in LABS.items():
            offset = rows[patient.id][f"{lab}_offset"]
            assert (field.name in values) == (offset != "" and float(offset) <= 0), (patient.source, lab)
            assert math.isfinite(values.get(field.name, 0))
    batch = Collator(task)(patients)
    assert batch.presence.sum(0).tolist() == [146, 146]
    assert batch.label.sum(0).tolist() == [88, 25]
    assert batch.label_known.sum(0).tolist() == [124, 146]
