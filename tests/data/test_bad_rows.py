from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from robustmdiff.data.bad_rows import SHOWN, BadRows
from robustmdiff.data.counts import counts
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.folder import folder_split, load_folder, stream_folder
from robustmdiff.data.tables.frames import read_frame

HEADER = "id,group,split,site,label,xray,labs.crp"
GOOD = ["a,,train,north,ill,a.npy,3", "b,b1,train,south,well,,4.5", "c,b1,train,,,a.npy,"]
BAD = {  # rows to what is wrong with them
    "d,,test,,ill,,high": "column 'labs.crp': is 'high', expected a number in mg/l",
    "e,,test,,ill,,3,4": "has 8 cells, expected 7",
    "a,,test,,ill,,3": "column 'id': is 'a', expected one not used before",
    "f,,test,,sick,,3": "column 'label': is 'sick', expected one of ill, well",
    "g,,test,,ill,no.npy,3": "column 'xray': is 'no.npy', expected a file under",
}
TASK = {
    "modalities": [
        {"name": "xray", "kind": "image", "shape": [1, 4, 4]},
        {"name": "labs", "kind": "values", "fields": [{"name": "crp", "unit": "mg/l"}]},
    ],
    "classes": ["ill", "well"],
}


@pytest.fixture
def folder(tmp_path):
    def write(rows):
        (tmp_path / "task.json").write_text(json.dumps(TASK), encoding="utf-8")
        (tmp_path / "patients.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
        np.save(tmp_path / "a.npy", np.full((1, 4, 4), 0.5, np.float32))
        return tmp_path

    return write


def mixed() -> list[str]:
    """Good and bad rows in turn, the first of the three good ones first."""
    return [
        GOOD[0],
        *(row for bad, good in zip(BAD, [*GOOD[1:], "", "", ""], strict=True) for row in (bad, good)),
    ]


def test_all_bad_rows_are_told_at_once(folder):
    with pytest.raises(DataError) as error:
        load_folder(folder(mixed()))
    assert len(error.value.args) == len(BAD)
    assert all(told.startswith("patients.csv:") for told in error.value.args)
    for expected in BAD.values():
        assert sum(expected in told for told in error.value.args) == 1


def test_skipped_rows_are_listed_and_stop_nobody(folder):
    root, bad = folder(mixed()), BadRows(skip=True)
    patients, task = load_folder(root, bad=bad)
    assert [patient.id for patient in patients] == ["a", "b", "c"]
    assert len(bad.problems) == len(BAD)
    assert task.prevalence == (0.5, 0.5)  # of those that are left
    found = counts(patients, task)
    assert (found.patients, found.people, found.labelled) == (3, 2, 2)
    assert [row["patients"] for row in found.classes] == [1, 1]
    assert [row["present"] for row in found.modalities] == [2, 2]
    assert found.sites == [{"site": "north", "patients": 1}, {"site": "south", "patients": 1}]


def test_a_stream_gives_the_same_patients_one_by_one_and_tells_at_its_end(folder):
    root, bad = folder(mixed()), BadRows(skip=True)
    patients = stream_folder(root, bad=bad)
    first = next(patients)
    assert not bad.problems  # not yet read
    whole = BadRows(skip=True)
    assert [first, *patients] == load_folder(root, bad=whole)[0]
    assert bad.problems == whole.problems
    patients = stream_folder(root)
    assert [next(patients).id for _ in "abc"] == ["a", "b", "c"]
    with pytest.raises(DataError) as error:
        next(patients)
    assert len(error.value.args) == len(BAD)


def test_of_many_bad_rows_some_are_told(folder):
    rows = [f"p{i},,,,ill,,high" for i in range(SHOWN + 7)]
    with pytest.raises(DataError) as error:
        load_folder(folder(rows))
    assert len(error.value.args) == SHOWN + 1
    assert error.value.args[-1] == "and 7 more"


def test_nothing_is_left(folder):
    with pytest.raises(DataError, match="has no row, expected at least one patient"):
        load_folder(folder(["d,,test,,ill,,high"]), bad=BadRows(skip=True))


def test_a_person_on_two_sides_is_one_bad_row(folder):
    root = folder([*GOOD, "h,b1,test,,ill,,3"])
    with pytest.raises(DataError, match="expected 'train' as in"):
        folder_split(root)
    bad = BadRows(skip=True)
    assert folder_split(root, bad=bad) == {"train": ("a", "b", "c")}
    assert len(bad.problems) == 1


def test_rows_of_a_frame(folder):
    _, task = load_folder(folder(GOOD))
    frame = pd.DataFrame({"id": ["a", "b", "c"], "labs.crp": ["3", "high", "low"]})
    with pytest.raises(DataError) as error:
        read_frame(frame, task)
    assert len(error.value.args) == 2
    bad = BadRows(skip=True)
    assert [patient.id for patient in read_frame(frame, task, bad=bad)] == ["a"]
    assert len(bad.problems) == 2
