from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.ham10000 import CLASSES, load_ham10000
from robustmdiff.data.splits import split_patients
from robustmdiff.data.study import readable

REAL = Path(__file__).parents[3] / "../shared/data/ham10000"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real copy ../shared/data/ham10000 is not here")
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


def collection(root: Path, *rows: dict[str, str]) -> Path:
    (root / "images").mkdir(exist_ok=True)
    with (root / "HAM10000_metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for i, row in enumerate(rows):
            row = {"lesion_id": f"L{i}", "image_id": f"I{i}", "dx": "nv", "dx_type": "histo", **row}
            table.writerow({"age": "45.0", "sex": "female", "localization": "back", **row})
            Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(root / "images" / f"{row['image_id']}.jpg")
    return root


def test_what_a_row_says(tmp_path):
    (patient,), task = load_ham10000(collection(tmp_path, {"dx": "mel", "sex": "male"}), 8)
    assert (patient.id, patient.person, patient.age) == ("I0", "L0", 45)
    assert patient.labels == {"melanoma": True}
    assert patient.modalities["clinic"] == {"age": 45, "sex": "M", "localization": "back"}
    assert patient.modalities["dermoscopy"].pixels().shape == (3, 8, 8)
    assert len(Collator(task)([patient])) == 1
    assert len(task.classes) == 7
    assert set(task.rare) == {"dermatofibroma", "vascular lesion"}


def test_unknown_is_missing_and_how_the_diagnosis_was_made_is_no_input(tmp_path):
    rows = [
        {"age": "", "sex": "unknown", "localization": "ear"},
        {"age": "", "sex": "unknown", "localization": "unknown"},
    ]
    patients, task = load_ham10000(collection(tmp_path, *rows), 8)
    assert [patient.modalities["clinic"] for patient in patients] == [{"localization": "ear"}, None]
    assert [field.name for field in task.modality("clinic").fields] == ["age", "sex", "localization"]


def test_images_of_one_lesion_come_to_one_side_of_a_split(tmp_path):
    lesions = [{"lesion_id": f"L{i // 3}"} for i in range(30)]
    patients, _ = load_ham10000(collection(tmp_path, *lesions), 8)
    split = split_patients(patients, {"train": 0.5, "test": 0.5}, seed=0)
    lesion_of = {patient.id: patient.group for patient in patients}
    train, test = ({lesion_of[id] for id in split[name]} for name in ("train", "test"))
    assert (len(train), len(test), train & test) == (5, 5, set())


BAD = {
    "class": ({"dx": "scc"}, r"HAM10000_metadata\.csv:2, column 'dx': is 'scc', expected one of nv, bkl"),
    "place": ({"localization": "tail"}, r"column 'localization': is 'tail', expected one of abdomen"),
    "age": ({"age": "old"}, r"column 'age': is 'old', expected a number from 0 to 120"),
    "no lesion": ({"lesion_id": ""}, r"column 'lesion_id': is '', expected something"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        load_ham10000(collection(tmp_path, bad))


def test_an_image_twice_absent_or_damaged(tmp_path):
    with pytest.raises(DataError, match=r":3, column 'image_id': is 'I', expected each image once \(.*:2\)"):
        load_ham10000(collection(tmp_path, {"image_id": "I"}, {"image_id": "I"}))
    root = collection(tmp_path, {}, {})
    (root / "images" / "I0.jpg").unlink()
    (root / "images" / "I1.jpg").write_bytes(b"\xff\xd8")
    absent, damaged = load_ham10000(root)[0]
    assert not absent.has("dermoscopy")
    with pytest.raises(
        DataError, match=r"HAM10000_metadata\.csv:3, column 'image_id': I1\.jpg is not an image"
    ):
        readable([damaged])


@real
def test_the_real_copy_has_the_counts_of_its_table():
    patients, task = load_ham10000(REAL)
    with (REAL / "HAM10000_metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counted = Counter(row["dx"] for row in rows)
    assert counted == {"nv": 3451, "bkl": 477, "mel": 398, "bcc": 201, "akiec": 153, "vasc": 64, "df": 49}
    labels = Counter(name for patient in patients for name in patient.labels)
    assert labels == {CLASSES[dx]: count for dx, count in counted.items()}
    assert len({patient.person for patient in patients}) == len({row["lesion_id"] for row in rows}) == 4793
    known = {
        "age": [row["age"] != "" for row in rows],
        "sex": [row["sex"] != "unknown" for row in rows],
        "localization": [row["localization"] != "unknown" for row in rows],
    }
    for name, flags in known.items():
        assert [name in (patient.modalities["clinic"] or {}) for patient in patients] == flags
    assert {name: sum(flags) for name, flags in known.items()} == {
        "age": 4760,
        "sex": 4759,
        "localization": 4659,
    }
    assert all(patient.has("dermoscopy") for patient in patients)
    assert task.prevalence[0] == pytest.approx((3451 + 1) / (4793 + 7))
