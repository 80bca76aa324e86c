from __future__ import annotations

import json

import pytest

from robustmdiff.data.patient import DataError
from robustmdiff.data.splits import save_split
from robustmdiff.experiment.studies import SPLITS, Source, load_study

N = 37


@pytest.fixture
def source(tmp_path):
    """A folder of 37 records of 19 people, the last six people declared as test."""
    (tmp_path / "task.json").write_text(
        json.dumps({"modalities": [{"name": "notes", "kind": "text"}], "classes": ["ill", "well"]})
    )
    (tmp_path / "ontology.obo").write_text("[Term]\nid: X:1\nname: ill\n")
    lines = [
        f"r{i:02},person {i // 2:02},{split},{'well' if i % 3 else 'ill'},note {i}"
        for i, split in enumerate(["train"] * 26 + ["test"] * 11)
    ]
    write(tmp_path, lines)
    return Source("folder", str(tmp_path), str(tmp_path / "ontology.obo"))


def write(folder, lines):
    (folder / "patients.csv").write_text("\n".join(["id,group,split,label,notes", *lines]) + "\n")


def ids(study):
    return {name: [patient.id for patient in study.patients[name]] for name in SPLITS}


def people(study):
    return {name: {patient.group for patient in study.patients[name]} for name in SPLITS}


def test_a_split_of_ones_own_is_kept_and_calibration_comes_out_of_train(source):
    study = load_study(source)
    assert ids(study)["test"] == [f"r{i}" for i in range(26, N)]
    found = people(study)
    assert found["train"]
    assert found["calibration"]
    assert not found["train"] & found["calibration"]
    assert sum(map(len, ids(study).values())) == N


def test_a_run_finds_its_split_again(source, tmp_path):
    again = {"train": ["r00", "r01", "r08"], "calibration": ["r02"], "test": ["r30", "r04"]}
    save_split(tmp_path / "split.json", again)
    study = load_study(source, tmp_path / "split.json")
    assert ids(study) == again
    # r00 is ill, r01 and r08 are well; one is added to each count
    assert study.task.prevalence == pytest.approx((2 / 5, 3 / 5))


def test_a_split_that_does_not_fit_is_refused(source, tmp_path):
    save_split(tmp_path / "split.json", {"train": ["r00"], "calibration": [], "test": ["r99"]})
    with pytest.raises(DataError, match="'r99' in 'test' is unknown"):
        load_study(source, tmp_path / "split.json")
    save_split(tmp_path / "split.json", {"train": ["r00"], "calibration": [], "test": ["r01"]})
    with pytest.raises(DataError, match="are the same person"):
        load_study(source, tmp_path / "split.json")
    write(tmp_path, [f"r{i},,{'train' if i else 'dev'},well,note" for i in range(9)])
    with pytest.raises(DataError, match="column 'split' has dev, train, expected train and test"):
        load_study(source)
