from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.lgg import ASSAYS, COLUMNS, SEQUENCES, load_lgg, verify

tifffile = pytest.importorskip("tifffile", reason="slices are TIFF: pip install 'robustmdiff[clinical]'")

REAL = Path(__file__).parents[3] / "../shared/data/lgg"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real copy ../shared/data/lgg is not here")

LEFT_OUT = ("COCCluster", "tumor_tissue_site", "death01")
ROW = {
    **dict.fromkeys(COLUMNS, "1"),
    **{"Patient": "TCGA_HT_0001", "age_at_initial_pathologic": "41", "histological_type": "2"},
    **dict.fromkeys(LEFT_OUT, "1"),
}


def collection(root: Path, *rows: dict[str, str], slices: int = 5, copied: tuple[str, ...] = ()) -> Path:
    """Pixels of slice n are n + 10 in the first channel, n + 20 in FLAIR and n + 30 in the third; those of
    sequences that are `copied` are FLAIR's. The mask holds a tumour in the first slice."""
    with (root / "data.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*COLUMNS, *LEFT_OUT])
        table.writeheader()
        table.writerows({**ROW, **row} for row in rows)
    for row in rows:
        name = f"{row.get('Patient', ROW['Patient'])}_19990101"
        (root / name).mkdir(exist_ok=True)
        for n in range(1, slices + 1):
            of = {"pre_contrast": 10, "flair": 20, "post_contrast": 30} | dict.fromkeys(copied, 20)
            picture = np.stack([np.full((8, 8), n + of[sequence], np.uint8) for sequence in SEQUENCES], -1)
            mask = np.full((8, 8), 255 * (n == 1), np.uint8)
            tifffile.imwrite(root / name / f"{name}_{n}.tif", picture, photometric="rgb")
            tifffile.imwrite(root / name / f"{name}_{n}_mask.tif", mask)
    return root


def test_an_image_holds_the_middle_slices_of_its_sequence_in_order(tmp_path):
    (patient,), task = load_lgg(collection(tmp_path, {}, slices=11), image_size=8, slices=2)
    for name, first in zip(SEQUENCES, (10, 20, 30), strict=True):
        image = patient.modalities[name]
        assert image.shape == task.modality(name).shape == (2, 8, 8)
        # Of 11 slices the third and the ninth are in the middle of either half; 10 comes after 9.
        assert (image[:, 0, 0] * 255).round().tolist() == [first + 3, first + 9]
    assert len(Collator(task)([patient])) == 1


@pytest.mark.parametrize(
    "copied", [(), ("pre_contrast",), ("post_contrast",), ("pre_contrast", "post_contrast")]
)
def test_a_sequence_that_is_a_copy_of_flair_is_absent(tmp_path, copied):
    (patient,), _ = load_lgg(collection(tmp_path, {}, copied=copied), image_size=8)
    assert {name for name in SEQUENCES if not patient.has(name)} == set(copied)


def test_what_a_row_says(tmp_path):
    full, sparse = load_lgg(
        collection(
            tmp_path,
            {"gender": "2", "MethylationCluster": "5", "race": "3"},
            {
                "Patient": "TCGA_DU_A5TY",
                **dict.fromkeys(("RNASeqCluster", "RPPACluster", "gender", "ethnicity"), ""),
                "age_at_initial_pathologic": "",
            },
        ),
        image_size=8,
    )[0]
    assert full.modalities["methylation"] == {"MethylationCluster": "5"}
    coded = {"race": "3", "ethnicity": "1", "laterality": "1", "tumor_location": "1"}
    assert full.modalities["clinic"] == {"age": 41, "sex": "code 2", **coded}
    assert (full.site, full.age, full.person) == ("HT", 41, "TCGA_HT_0001")
    assert [sparse.has(name) for name in ("rna", "mirna", "protein")] == [False, True, False]
    assert sparse.modalities["clinic"] == {"race": "1", "laterality": "1", "tumor_location": "1"}
    assert (sparse.site, sparse.age) == ("DU", None)


@pytest.mark.parametrize(
    ("target", "label"), [("grade", {"grade code 1": True}), ("histology", {"histology code 2": True})]
)
def test_neither_target_nor_the_outcome_is_an_input(tmp_path, target, label):
    (patient,), task = load_lgg(collection(tmp_path, {}), target, image_size=8)
    assert patient.labels == label
    fields = {field.name for m in task.of_kind("values") for field in m.fields}
    assert fields == {field.name for field in ASSAYS.values()} | {
        *("age", "sex", "race", "ethnicity", "laterality", "tumor_location")
    }


def test_a_patient_without_the_target_or_without_slices(tmp_path):
    root = collection(tmp_path, {"neoplasm_histologic_grade": ""})
    for path in (root / "TCGA_HT_0001_19990101").iterdir():
        path.unlink()
    (root / "TCGA_HT_0001_19990101").rmdir()
    (patient,), _ = load_lgg(root)
    assert patient.labels == {}
    assert not any(patient.has(name) for name in SEQUENCES)


BAD = {
    "code": ({"RPPACluster": "5"}, r"data\.csv:2, column 'RPPACluster': is '5', expected one of 1, 2, 3, 4"),
    "grade": (
        {"neoplasm_histologic_grade": "3"},
        r"column 'neoplasm_histologic_grade': is '3', expected one",
    ),
    "name": ({"Patient": "HT_1"}, r"column 'Patient': is 'HT_1', expected TCGA_<site>_<patient>"),
    "age": (
        {"age_at_initial_pathologic": "NA"},
        r"column 'age_at_initial_pathologic': is 'NA', expected a num",
    ),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        load_lgg(collection(tmp_path, bad))


def test_bad_slices_are_refused_by_row_and_file(tmp_path):
    root = collection(tmp_path, {}, slices=3)
    with pytest.raises(
        DataError, match=r"data\.csv:2, column 'Patient': TCGA_HT_0001_19990101 holds 3 slices"
    ):
        load_lgg(root)
    (root / "TCGA_HT_0001_19990101" / "TCGA_HT_0001_19990101_2.tif").write_bytes(b"II*\0")
    with pytest.raises(
        DataError, match=r"data\.csv:2, column 'Patient': TCGA_HT_0001_19990101_2\.tif is not"
    ):
        load_lgg(root, slices=3)
    (root / "TCGA_HT_0001_20000101").mkdir()
    with pytest.raises(DataError, match="expected one folder of slices, there are 2"):
        load_lgg(root, slices=3)


def test_a_patient_twice_and_an_option_that_cannot_be(tmp_path):
    with pytest.raises(
        DataError, match=r"data\.csv:3, column 'Patient': .*each patient once \(data\.csv:2\)"
    ):
        load_lgg(collection(tmp_path, {}, {}))
    with pytest.raises(ValueError, match="target is 'death', expected one of grade, histology"):
        load_lgg(tmp_path, "death")
    with pytest.raises(ValueError, match="slices is 0, expected 1 or more"):
        load_lgg(tmp_path, slices=0)


def test_verify_counts_tumours_that_the_chosen_slices_show(tmp_path):
    root = collection(tmp_path, {}, slices=5)  # the mask is of the first slice
    assert verify(root) == {"folders of slices": 1, "slices": 5, "tumours in a chosen slice": 1}
    root = collection(tmp_path, {}, slices=15)  # the first of five parts has its middle in the second slice
    assert verify(root) == {"folders of slices": 1, "slices": 15, "tumours in a chosen slice": 0}


@real
def test_the_real_copy_has_the_counts_of_its_table_and_no_copied_sequence():
    patients, task = load_lgg(REAL, image_size=96)
    with (REAL / "data.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["Patient"]: row for row in csv.DictReader(file)}
    assert [patient.id for patient in patients] == list(rows)
    copied: Counter[str] = Counter()
    for patient in patients:
        row = rows[patient.id]
        for name, field in ASSAYS.items():
            said = patient.modalities[name]
            assert (said or {}).get(field.name, "") == row[field.name], (patient.id, name)
        folder = next(REAL.glob(f"{patient.id}_*"))
        paths = [path for path in folder.iterdir() if not path.name.endswith("_mask.tif")]
        slices = np.stack([tifffile.imread(path) for path in paths])
        for channel, name in enumerate(SEQUENCES):
            is_copy = channel != 1 and np.array_equal(slices[..., channel], slices[..., 1])  # in every slice
            copied[name] += is_copy
            assert patient.has(name) == (not is_copy), (patient.id, name)
    assert (copied["pre_contrast"], copied["post_contrast"]) == (4, 6)
    assert [sum(patient.has(name) for patient in patients) for name in ASSAYS] == [62, 78, 77, 76, 70, 75]
    assert Counter(patient.site for patient in patients) == {"DU": 29, "HT": 27, "CS": 12, "FG": 9, "EZ": 1}
    assert Counter(label for patient in patients for label in patient.labels) == {
        "grade code 1": 37,
        "grade code 2": 40,
    }
    assert verify(REAL) == {"folders of slices": 78, "slices": 1324, "tumours in a chosen slice": 76}
    assert len(Collator(task)(patients)) == 78
