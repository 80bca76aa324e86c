from __future__ import annotations

import pytest

from robustmdiff.cli.predict import write_predictions
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.tables.read import read_table
from robustmdiff.data.task import Task
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import Study


def test_predictions_hold_no_formula_and_are_read_back_unchanged(tmp_path):
    names = ["=HYPERLINK(1)", "+1-2", "-x", "@a", "Zo\u00eb, \u5f20", 'say "so"', "-7", "'=1"]
    rows = [
        {
            "patient": id,
            "class": name,
            "probability": 0.25,
            "low": 0.0,
            "in_set": True,
            "missing": "xray notes",
        }
        for id in names
        for name in reversed(names)
    ]
    write_predictions(rows, tmp_path / "predictions.csv")
    written = (tmp_path / "predictions.csv").read_text(encoding="utf-8")
    assert "\n=" not in written
    assert ",=" not in written
    read = read_table(tmp_path / "predictions.csv", list(rows[0]))
    for row, found in zip(rows, read, strict=True):
        assert {name: found.cells[name] for name in ("patient", "class", "missing")} == {
            name: row[name] for name in ("patient", "class", "missing")
        }
        assert found.number("probability", 0, 1) == 0.25
        assert found.flag("in_set") is True


def test_a_patient_is_found_by_any_spelling_of_the_id():
    patients = {"train": [Patient("Zoe\u0308", {})], "calibration": [], "test": [Patient("12.0", {})]}
    task = Task((Modality("notes", "text"),), ("a", "b"), (0.5, 0.5))
    study = Study(Source("folder", "."), task, patients)
    assert study.find("Zo\u00eb").id == "Zoe\u0308"
    assert study.find("12").id == "12.0"
    with pytest.raises(DataError, match="no patient 'zo\u00eb' in this study"):
        study.find("zo\u00eb")
