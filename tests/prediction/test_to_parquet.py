"""Answers in a Parquet file: whole, the same however they were computed, and resumed after a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from robustmdiff import Predictor
from robustmdiff.cli.predict import predict_run
from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError
from robustmdiff.data.splits import load_split
from robustmdiff.prediction import to_parquet
from robustmdiff.prediction.answering import COLUMNS, Answered, Answering
from robustmdiff.prediction.parts import Parts
from robustmdiff.prediction.processes import start_method
from robustmdiff.prediction.to_parquet import predict_to_parquet
from robustmdiff.refusal import Refusal
from tests.experiment.test_other_folder import PEOPLE

parquet = pytest.importorskip("pyarrow.parquet")

BATCH = 3  # patients, so that the last batch has fewer
BATCHES = -(-PEOPLE // BATCH)


@pytest.fixture(scope="module")
def uninterrupted(predictor, data) -> bytes:
    out = data.parent / "uninterrupted.parquet"
    predict_to_parquet(predictor, out, data, batch=BATCH)
    return out.read_bytes()


@pytest.fixture
def other(data, tmp_path) -> Path:
    """A copy of the data, to be changed."""
    return shutil.copytree(data, tmp_path / "other")


def test_the_file_holds_what_the_command_says_in_types(predictor, run, data, tmp_path):
    out = tmp_path / "answers.parquet"
    expected = predict_run(run, data=data)
    assert predict_to_parquet(predictor, out, data) == len(expected) == 2 * PEOPLE
    table = parquet.read_table(out)
    assert {field.name: str(field.type) for field in table.schema} == {
        "patient": "string",
        "class": "string",
        "probability": "double",
        "low": "double",
        "high": "double",
        "in_set": "bool",
        "unlike_training": "bool",
        "missing": "string",
        "nothing_known": "bool",
        "answer": "string",
    }
    assert list(COLUMNS) == list(expected[0])
    assert table.to_pylist() == [pytest.approx(row, abs=1e-6) for row in expected]
    assert os.listdir(tmp_path) == [out.name]


def test_what_there_is_not_is_null(predictor, data, tmp_path):
    out = tmp_path / "answers.parquet"
    predict_to_parquet(predictor, out, data, draws=0, ids=["p3", "p1"])
    table = parquet.read_table(out)
    assert table["patient"].to_pylist() == ["p3", "p3", "p1", "p1"]
    assert (table["low"].null_count, table["high"].null_count, table["probability"].null_count) == (4, 4, 0)


def test_without_data_the_run_s_own_test_patients_are_asked_about(predictor, run, tmp_path):
    predict_to_parquet(predictor, tmp_path / "answers.parquet")
    answered = parquet.read_table(tmp_path / "answers.parquet")["patient"].to_pylist()
    assert tuple(dict.fromkeys(answered)) == load_split(run / "split.json")["test"]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_writes_the_same_bytes(predictor, data, uninterrupted, tmp_path, workers):
    out = tmp_path / "answers.parquet"
    predict_to_parquet(predictor, out, data, batch=BATCH, workers=workers)
    assert out.read_bytes() == uninterrupted


def predict_until(changes: int, run: Path, data: Path, out: Path) -> None:
    """Predicts in this process until SIGKILL ends it: before the next file after that many is put in its
    place or removed."""
    predictor = Predictor.from_pretrained(run)
    left = changes

    def counted(change):
        def count(*arguments, **options):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return change(*arguments, **options)

        return count

    os.replace, os.unlink = counted(os.replace), counted(os.unlink)
    predict_to_parquet(predictor, out, data, batch=BATCH)


def parts_of(out: Path) -> int:
    return len(list(out.with_name(f"{out.name}.parts").glob("[0-9]*.json")))


def test_after_kills_the_file_is_that_of_an_uninterrupted_process(
    predictor, run, data, uninterrupted, tmp_path
):
    """Each process goes on where the one before was killed: writing parts, joining them, removing them."""
    out, context = tmp_path / "answers.parquet", start_method(Answering(predictor))

    def killed_after(changes: int) -> None:
        process = context.Process(target=predict_until, args=(changes, run, data, out))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    killed_after(0)
    killed_after(1 + 1)  # what the first one left is removed, the question is written
    for changes in np.random.default_rng().multinomial(BATCHES, [1 / 3] * 3):
        before = parts_of(out)
        killed_after(changes)
        assert parts_of(out) == before + changes
    killed_after(1)  # the parts are joined
    assert not out.exists()
    killed_after(1 + 1)  # and the file is put in its place
    assert out.read_bytes() == uninterrupted
    killed_after(1 + 1 + BATCHES // 2)  # and half of the parts removed
    assert parts_of(out) < BATCHES
    predict_to_parquet(predictor, out, data, batch=BATCH)
    assert out.read_bytes() == uninterrupted
    assert os.listdir(tmp_path) == [out.name]


def test_parts_without_their_question_are_nobody_s(predictor, data, uninterrupted, tmp_path):
    """As a kill may leave them while the folder is removed."""
    out = tmp_path / "answers.parquet"
    half_done(predictor, data, out, seed=1)
    (parts,) = tmp_path.iterdir()
    (parts / "asked.json").unlink()
    predict_to_parquet(predictor, out, data, batch=BATCH)
    assert out.read_bytes() == uninterrupted


def half_done(predictor: Predictor, data: Path, out: Path, **options) -> None:
    """Interrupted after half of the batches."""

    def keep(parts: Parts, *arguments) -> None:
        if parts_of(out) == BATCHES // 2:
            raise KeyboardInterrupt
        kept(parts, *arguments)

    kept = Parts.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "keep", keep)
        with pytest.raises(KeyboardInterrupt):
            predict_to_parquet(predictor, out, data, batch=BATCH, **options)
    assert parts_of(out) == BATCHES // 2
    assert not out.exists()


def test_two_processes_go_on_where_one_stopped_and_the_reverse(predictor, data, uninterrupted, tmp_path):
    out = tmp_path / "answers.parquet"
    for first, then in ((1, 2), (2, 1)):
        half_done(predictor, data, out, workers=first)
        predict_to_parquet(predictor, out, data, batch=BATCH, workers=then)
        assert out.read_bytes() == uninterrupted
        out.unlink()


def test_another_question_is_refused_until_the_parts_are_removed(predictor, other, tmp_path):
    out = tmp_path / "answers.parquet"
    half_done(predictor, other, out)
    parts = tmp_path / "answers.parquet.parts"
    asked = json.loads((parts / "asked.json").read_text(encoding="utf-8"))
    what = re.escape(f"{parts}: holds answers to another question")
    for key, then, now in (("seed", 0, 1), ("draws", 3, 7)):
        with pytest.raises(DataError, match=rf"{what} \({key} is {then} there and {now} now\), expected the"):
            predict_to_parquet(predictor, out, other, batch=BATCH, **{key: now})
    table = other / "patients.csv"
    rows = table.read_text(encoding="utf-8")
    table.write_text(rows.replace("p39,sick,1,39.npy,", "p39,sick,1,38.npy,"), encoding="utf-8")
    with pytest.raises(DataError, match=rf"{what} \(patients is '{asked['patients']}' there and '"):
        predict_to_parquet(predictor, out, other, batch=BATCH)
    table.write_text(rows, encoding="utf-8")
    retrained = shutil.copytree(predictor.run.folder, tmp_path / "retrained")
    sets = retrained / "conformal.json"
    sets.write_text(sets.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{what} \(run is"):
        predict_to_parquet(Predictor.from_pretrained(retrained), out, other, batch=BATCH)
    assert parts_of(out) == BATCHES // 2
    shutil.rmtree(parts)
    predict_to_parquet(predictor, out, other, batch=BATCH, seed=1)
    assert out.exists()


def test_what_cannot_be_read_is_left_out_and_listed_across_processes_and_resumes(predictor, other, tmp_path):
    table, out = other / "patients.csv", tmp_path / "answers.parquet"
    table.write_text(table.read_text(encoding="utf-8").replace("p20,well", "p20,ill"), encoding="utf-8")
    for picture in (1, 2, 35):
        np.save(other / f"{picture}.npy", np.full((8, 8), np.nan, np.float32))
    files = {}
    for workers in (1, 2):
        half_done(predictor, other, out, bad=BadRows(skip=True))
        bad = BadRows(skip=True)
        predict_to_parquet(predictor, out, other, batch=BATCH, workers=workers, bad=bad)
        assert [problem.split(": ")[0] for problem in bad.problems] == [
            "patients.csv:22, column 'label'",
            "patients.csv:3, column 'ct'",
            "patients.csv:4, column 'ct'",
            "patients.csv:37, column 'ct'",
        ]
        files[workers] = out.read_bytes()
        out.unlink()
    assert files[1] == files[2]
    out.write_bytes(files[1])
    answered = parquet.read_table(out)["patient"].to_pylist()
    without = {"p20", "p1", "p2", "p35"}
    assert answered == [f"p{i}" for i in range(PEOPLE) if f"p{i}" not in without for _ in range(2)]


def test_what_cannot_be_read_stops_it_and_a_repaired_picture_goes_on(
    predictor, other, uninterrupted, tmp_path
):
    out, picture = tmp_path / "answers.parquet", other / "35.npy"
    sound = picture.read_bytes()
    np.save(picture, np.full((8, 8), np.nan, np.float32))
    with pytest.raises(DataError, match=r"patients.csv:37, column 'ct': is '35.npy', which holds NaN"):
        predict_to_parquet(predictor, out, other, batch=BATCH)
    assert parts_of(out) == 35 // BATCH
    half = out.with_name("answers.parquet.parts")
    kept = shutil.copytree(half, tmp_path / "kept")
    picture.write_bytes(sound)
    predict_to_parquet(predictor, out, other, batch=BATCH)
    assert out.read_bytes() == uninterrupted

    shutil.move(kept, half)  # of a process that skipped, gone on by one that does not
    Parts(out, json.loads((half / "asked.json").read_text(encoding="utf-8"))).keep(
        0, Answered([], ["somebody"], [])
    )
    predict_to_parquet(predictor, out, other, batch=BATCH)
    assert out.read_bytes() == uninterrupted


def test_rows_that_cannot_be_read_stop_it_before_it_begins(predictor, other, tmp_path):
    table = other / "patients.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("p39,sick", "p39,ill"), encoding="utf-8")
    with pytest.raises(DataError, match=r"patients.csv:41, column 'label': is 'ill', expected one of"):
        predict_to_parquet(predictor, tmp_path / "answers.parquet", other)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("options", "package", "said"),
    [
        ({"engine": "spark"}, None, r"engine is 'spark', expected one of processes, ray"),
        ({"engine": "ray"}, "ray", r"engine 'ray': needs ray, expected it installed .*robustmdiff\[ray\]"),
        ({}, "pyarrow", r"answers.parquet: needs pyarrow, expected it installed .*robustmdiff\[tables\]"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_at_once(predictor, data, tmp_path, monkeypatch, options, package, said):
    found = util.find_spec
    monkeypatch.setattr(to_parquet, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(Refusal, match=said):
        predict_to_parquet(predictor, tmp_path / "answers.parquet", data, **options)
