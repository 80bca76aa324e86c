from __future__ import annotations

import json
import warnings

import pytest

from robustmdiff.data.patient import DataError
from robustmdiff.data.splits import load_split
from robustmdiff.diagnosis.calibration import say_if_calibrated_otherwise
from robustmdiff.experiment.run import load_run


def test_a_run_remembers_who_was_in_which_split(run):
    study, trained = run
    split = load_split(trained.folder / "split.json")
    assert split == {name: tuple(p.id for p in patients) for name, patients in study.patients.items()}


def test_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises(DataError, match="holds no run"):
        load_run(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"date": "cohort"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"study\.json: cannot be read"):
        load_run(tmp_path)


@pytest.mark.parametrize("answer", ["draws", "head"])
def test_another_number_of_draws_than_the_sets_were_made_for_is_warned_of(run, answer):
    """Where the draws answer; a head answers the same however many there are."""
    trained = run[1]
    trained.model.answer, before = answer, trained.model.answer
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            say_if_calibrated_otherwise(trained.model, 5)
    finally:
        trained.model.answer = before
    said = [str(each.message) for each in told]
    expected = "draws is 5, and the prediction sets were calibrated for 3"
    assert [text.startswith(expected) for text in said] == ([True] if answer == "draws" else [])
