"""What the cells of a folder's table say: names, flags, numbers, and who is who."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.folder import folder_split, load_folder
from robustmdiff.data.tables.read import write_table


def write(folder: Path, rows: list[list], columns: list[str], **task) -> Path:
    """A folder of one text, of values (crp in mg/l, and a genotype), and of two classes."""
    fields = [{"name": "crp", "unit": "mg/l"}, {"name": "genotype", "categories": ["AA", "Aa", "aa"]}]
    modalities = [{"name": "notes", "kind": "text"}, {"name": "lab", "kind": "values", "fields": fields}]
    described = {"modalities": modalities, "classes": ["sick", "well"], "findings": ["fever"], **task}
    (folder / "task.json").write_text(json.dumps(described), encoding="utf-8")
    write_table(folder / "patients.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])
    return folder


COLUMNS = ["id", "label", "notes", "lab.crp", "lab.genotype"]


def test_categories_that_differ_by_case_alone_are_themselves(tmp_path):
    rows = [[genotype, "sick", "", "", genotype] for genotype in ("AA", "Aa", "aa")]
    patients, task = load_folder(write(tmp_path, rows, COLUMNS))
    assert [patient.modalities["lab"]["genotype"] for patient in patients] == ["AA", "Aa", "aa"]
    assert Collator(task)(patients).inputs["lab"].value[:, 1].tolist() == [0, 1, 2]
    write(tmp_path, [["p", "sick", "", "", "aA"]], COLUMNS)
    with pytest.raises(DataError, match=r"'lab\.genotype': is 'aA', expected one of AA, Aa, aa, or nothing"):
        load_folder(tmp_path)


def test_classes_that_differ_by_case_alone_are_themselves(tmp_path):
    rows = [[str(i), name, "", i, ""] for i, name in enumerate(("K", "k", "K"))]
    patients, task = load_folder(write(tmp_path, rows, COLUMNS, classes=["K", "k"]))
    assert [patient.labels for patient in patients] == [{"K": True}, {"k": True}, {"K": True}]
    assert task.prevalence == pytest.approx((3 / 5, 2 / 5))


@pytest.mark.parametrize(
    ("said", "holds"), [(None, None), ("unknown", None), ("positive", True), ("negative", False)]
)
def test_flags_are_read_as_pandas_and_chexpert_write_them(tmp_path, said, holds):
    columns = ["id", "notes", "lab.crp", "lab.genotype", "label:sick", "label:well", "finding:fever"]
    rows = [
        ["a", "", 1, "", "1.0", "0.0", "True"],
        ["b", "", 1, "", "-1.0", "", "False"],
        ["c", "", 1, "", "nan", "1", "-1"],
    ]
    uncertain = {} if said is None else {"uncertain": said}
    write(tmp_path, rows, columns, multilabel=True, **uncertain)
    with pytest.warns(UserWarning, match=r"read as .*: 1$") as warned:
        patients, task = load_folder(tmp_path)
    assert [str(warning.message) for warning in warned] == [
        f"patients.csv, column {column!r}: cells where uncertain (-1) is read as {said or 'unknown'}: 1"
        for column in ("label:sick", "finding:fever")
    ]
    flag = {} if holds is None else {"sick": holds}
    assert [p.labels for p in patients] == [{"sick": True, "well": False}, flag, {"well": True}]
    fever = {} if holds is None else {"fever": holds}
    assert [p.findings for p in patients] == [{"fever": True}, {"fever": False}, fever]
    assert task.prevalence == pytest.approx(({None: 2 / 3, True: 3 / 4, False: 1 / 2}[holds], 1 / 2))


def test_what_uncertain_may_say_is_checked(tmp_path):
    write(tmp_path, [], COLUMNS, uncertain="maybe")
    with pytest.raises(DataError, match=r"task\.json: uncertain is 'maybe', expected one of unknown, p"):
        load_folder(tmp_path)


def test_a_label_that_pandas_or_r_left_out_is_unknown(tmp_path):
    rows = [[str(i), label, "", 1, ""] for i, label in enumerate(("sick", "nan", "NA", "", "Well"))]
    patients, _ = load_folder(write(tmp_path, rows, COLUMNS))
    assert [patient.labels for patient in patients] == [{"sick": True}, {}, {}, {}, {"well": True}]


def test_laboratory_cells_are_read_as_laboratories_write_them(tmp_path):
    cells = ("<0.5", ">100 mg/L", "12\u00a0mg/l", "\u22123", "+5", "1e3")
    write(tmp_path, [[str(i), "", "", cell, ""] for i, cell in enumerate(cells)], COLUMNS)
    with pytest.warns(UserWarning, match=r"patients\.csv, column 'lab\.crp': cells where .* number: 2$"):
        patients, _ = load_folder(tmp_path)
    assert [patient.modalities["lab"]["crp"] for patient in patients] == [0.5, 100, 12, -3, 5, 1000]
    write(tmp_path, [["a", "", "", "12 mg/dl", ""]], COLUMNS)
    with pytest.raises(DataError, match=r"'lab\.crp': is '12 mg/dl', expected a number in mg/l, or nothing"):
        load_folder(tmp_path)


def test_the_age_of_the_oldest_is_a_bound(tmp_path):
    write(tmp_path, [["a", "", "", 1, "", ">89"]], [*COLUMNS, "age"])
    with pytest.warns(UserWarning, match="column 'age': cells where a bound"):
        (patient,), _ = load_folder(tmp_path)
    assert patient.age == 89


def test_one_person_has_one_spelling_in_ids_groups_sites_and_splits(tmp_path):
    columns = [*COLUMNS, "group", "site", "split"]
    rows = [
        ["a", "", "", 1, "", "Zo\u00eb", "K\u00f6ln", "Train"],
        ["b", "", "", 1, "", "Zoe\u0308\u00a0", "Ko\u0308ln", "train"],
        ["c", "", "", 1, "", "", "K\u00f6ln ", "test"],
    ]
    patients, _ = load_folder(write(tmp_path, rows, columns))
    assert patients[0].person == patients[1].person == "Zo\u00eb"
    assert {patient.site for patient in patients} == {"K\u00f6ln"}
    assert folder_split(tmp_path) == {"train": ("a", "b"), "test": ("c",)}
    rows[1][-1] = "test"
    write(tmp_path, rows, columns)
    with pytest.raises(DataError, match=r"csv:3, column 'split': is 'test', expected 'train' as in"):
        folder_split(tmp_path)
    rows[1][0] = "\uff41"  # a full-width a
    write(tmp_path, rows, columns)
    with pytest.raises(DataError, match=r"column 'id': is '\uff41', expected one not used before \(patients"):
        load_folder(tmp_path)


NO_NAMES = {
    "pandas in the group": ("group", "nan", "expected a blank cell where there is nothing"),
    "R in the site": ("site", "NA", "expected a blank cell where there is nothing"),
    "None in the text": ("notes", "None", "expected a blank cell where there is nothing"),
    "a long number in the group": (
        "group",
        "1.23457E+18",
        "which is a long number cut short by a spreadsheet",
    ),
    "a long number in the id": ("id", "1.23457E+18", "which is a long number cut short by a spreadsheet"),
}


@pytest.mark.parametrize(("column", "cell", "message"), NO_NAMES.values(), ids=NO_NAMES.keys())
def test_what_is_no_name_and_no_text_is_refused(tmp_path, column, cell, message):
    columns = [*COLUMNS, "group", "site"]
    row = dict.fromkeys(columns, "") | {"id": "a", "lab.crp": 1, column: cell}
    write(tmp_path, [list(row.values())], columns)
    with pytest.raises(DataError, match=re.escape(f"csv:2, column '{column}': is '{cell}', {message}")):
        load_folder(tmp_path)


def test_the_way_out_for_a_long_note_is_named(tmp_path):
    write(tmp_path, [["a", "", "long " * 30_000, 1, ""]], COLUMNS)
    with pytest.raises(DataError, match=r"csv:2: has a cell of more .* named in column notes_file\)"):
        load_folder(tmp_path)
