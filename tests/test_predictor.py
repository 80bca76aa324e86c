"""The front door: named answers about patients, from wherever they come."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from robustmdiff import Answer, Predictor
from robustmdiff.cli.predict import predict_run
from robustmdiff.data.patient import DataError
from robustmdiff.data.splits import load_split
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.studies import load_study
from robustmdiff.refusal import Refusal
from robustmdiff.training.notes import read_notes
from tests.experiment.test_other_folder import CONFIG, ONE, ONTOLOGY, PEOPLE, source_of, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The data; the run lies beside it."""
    root = write_folder(tmp_path_factory.mktemp("hospital") / "one", ONE, other=False)
    (root.parent / "ontology.obo").write_text(ONTOLOGY, encoding="utf-8")
    train_run(load_study(source_of(root)), CONFIG, root.parent / "run")
    return root


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.from_pretrained(folder.parent / "run")


def test_an_answer_names_what_it_says(predictor, folder):
    patients = predictor.patients(folder)
    answers = predictor.diagnose(patients, draws=4)
    assert [answer.patient for answer in answers] == [f"p{i}" for i in range(PEOPLE)]
    for answer in answers:
        assert sum(answer.probability.values()) == pytest.approx(1, abs=1e-5)
        assert answer.probability.keys() == answer.interval.keys() == {"sick", "well"}
        assert answer.prediction[0] == max(answer.probability, key=answer.probability.get)
        assert answer.findings.keys() == {"fever", "cough"}
        assert answer.missing == ()
    assert len({answer.probability["sick"] for answer in answers}) > PEOPLE / 2  # inputs matter
    alone = predictor.diagnose(patients[3], draws=4)
    assert alone.probability == pytest.approx(answers[3].probability, abs=1e-6)
    assert (alone.patient, alone.prediction) == ("p3", answers[3].prediction)
    assert predictor.diagnose(folder, draws=4) == answers
    few = predictor.diagnose(replace(patients[0], modalities={}), draws=4)
    assert few.missing == ("ct", "labs")


def test_the_command_line_says_the_same(predictor, folder):
    answers = predictor.diagnose(folder, draws=4)
    rows = predict_run(folder.parent / "run", data=folder, draws=4)
    told = {(row["patient"], row["class"]): row["probability"] for row in rows}
    assert told == {(a.patient, name): round(p, 6) for a in answers for name, p in a.probability.items()}


def test_a_data_frame_is_read_as_the_table_is(predictor, folder):
    frame = pd.read_csv(folder / "patients.csv", dtype={"id": str})
    expected = predictor.diagnose(folder, draws=4)
    assert predictor.diagnose(predictor.patients(frame, root=folder), draws=4) == expected
    assert predictor.diagnose(frame, root=folder, draws=4) == expected  # its pictures lie elsewhere
    with pytest.raises(DataError, match=r"column 'ct': is '0.npy', expected a file under"):
        predictor.diagnose(frame, draws=4)
    # without images and labels, the ids in the index, a value missing
    labs = frame.set_index("id")[["labs.crp", "labs.wbc", "labs.temperature", "labs.gene"]]
    labs.loc["p1", "labs.crp"] = np.nan
    answers = predictor.diagnose(labs, draws=4)
    assert [answer.patient for answer in answers] == [f"p{i}" for i in range(PEOPLE)]
    assert {answer.missing for answer in answers} == {("ct",)}
    assert "crp" not in predictor.patients(labs)[1].modalities["labs"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labs.crpp": [1.0]}, r"column 'labs.crpp' is unknown \(did you mean 'labs.crp'\?\)"),
        ({"labs.crp": ["high"]}, r"DataFrame row 0, column 'labs.crp': is 'high', expected a number in mg/l"),
        ({"id": [""], "labs.crp": [1.0]}, "DataFrame row 0, column 'id': is '', expected an id"),
        ({"ct": ["no.npy"]}, "DataFrame row 0, column 'ct': is 'no.npy', expected a file under"),
        ({"labs.crp": []}, "DataFrame: has no row"),
    ],
)
def test_a_wrong_frame_is_one_sentence(predictor, columns, message):
    with pytest.raises(DataError, match=message):
        predictor.diagnose(pd.DataFrame(columns))


def test_the_same_answers_in_threads(predictor, folder):
    patients = predictor.patients(folder)[:8]
    expected = [predictor.diagnose(patient, draws=4) for patient in patients]
    fresh = Predictor.from_pretrained(folder.parent / "run")  # all of them ask first
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda patient: fresh.diagnose(patient, draws=4), patients)) == expected
    assert isinstance(expected[0], Answer)


def test_an_explanation_tells_the_notes_of_the_training(predictor, folder):
    notes = read_notes(folder.parent / "run")
    assert "monitor" in {note.topic for note in notes}
    assert list(predictor.explain(predictor.patients(folder)[0], draws=4).notes) == notes


def test_the_same_explanations_in_threads(predictor, folder):
    patients = predictor.patients(folder)[:4]

    def ask(patient):
        labs = replace(patient, modalities={"labs": patient.modalities["labs"]})
        why = predictor.explain(labs, draws=4).to_json()
        return json.dumps(why), predictor.next_test(labs, draws=4), predictor.diagnose(patient, draws=4)

    expected = list(map(ask, patients))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, patients)) == expected


IN_ANOTHER_PROCESS = """
import pickle, sys
predictor, patients = pickle.load(sys.stdin.buffer)
pickle.dump([predictor.diagnose(patient, draws=4) for patient in patients], sys.stdout.buffer)
"""


def test_the_same_answers_in_a_process_of_its_own(predictor, folder):
    patients = predictor.patients(folder)[:3]
    expected = [predictor.diagnose(patient, draws=4) for patient in patients]
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        input=pickle.dumps((predictor, patients)),
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert pickle.loads(done.stdout) == expected


def test_concepts_are_embedded_once_and_again_when_the_weights_change(folder, monkeypatch):
    predictor = Predictor.from_pretrained(folder.parent / "run")
    model, patient = predictor.run.model, predictor.patients(folder)[1]
    embed, asked = model.embed_concepts, []
    monkeypatch.setattr(model, "embed_concepts", lambda: asked.append(1) or embed())
    first = predictor.diagnose(patient, draws=4)
    assert predictor.diagnose(patient, draws=4) == first
    predictor.next_test(replace(patient, modalities={"labs": patient.modalities["labs"]}), draws=4)
    predictor.explain(patient, draws=4)
    assert len(asked) == 1
    with torch.no_grad():
        for weight in model.concepts.parameters():
            weight.add_(0.5)
    changed = predictor.diagnose(patient, draws=4)
    assert len(asked) == 2
    assert changed.probability != first.probability
    assert Predictor(predictor.run).diagnose(patient, draws=4) == changed


def test_of_whom_nothing_is_known_the_prevalence_is_told(predictor, folder):
    patients = predictor.patients(folder)[:2]
    unknown, known = predictor.diagnose([replace(patients[0], modalities={}), patients[1]], draws=4)
    assert unknown.nothing_known
    assert not known.nothing_known
    prevalence = dict(zip(predictor.task.classes, predictor.task.prevalence, strict=True))
    assert unknown.probability == pytest.approx(prevalence, abs=1e-7)
    assert all(low == high for low, high in unknown.interval.values())
    assert unknown.findings == {}
    assert known == predictor.diagnose(patients[1:], draws=4)[0]


def test_draws_are_as_many_as_the_run_was_calibrated_with(predictor, folder):
    everything = predictor.patients(folder)[2]
    name, value = next(iter(everything.modalities.items()))
    patient = replace(everything, modalities={name: value})  # of whom there is something to imagine
    assert predictor.run.model.config.draws != 4
    own = predictor.diagnose(patient, draws=predictor.run.model.config.draws)
    assert predictor.diagnose(patient) == own != predictor.diagnose(patient, draws=4)


def test_without_draws_a_head_answers_and_says_so(predictor, folder):
    patients = predictor.patients(folder)[:3]
    answers = predictor.diagnose(patients, draws=0)
    assert {answer.answer for answer in answers} == {"head"}
    assert all(answer.interval == {} for answer in answers)
    assert {answer.answer for answer in predictor.diagnose(patients)} == {predictor.run.model.answer}
    assert all(answer.interval.keys() == {"sick", "well"} for answer in predictor.diagnose(patients))


def test_some_by_id(predictor, folder):
    assert [patient.id for patient in predictor.patients(folder, ids=["p5", "p2"])] == ["p5", "p2"]
    trained = load_split(folder.parent / "run" / "split.json")["train"][0]
    assert predictor.patients(ids=[trained])[0].id == trained
    with pytest.raises(DataError, match="has no patient 'nobody', expected one of p0, p1"):
        predictor.patients(folder, ids=["nobody"])


def test_a_baseline_answers_too_and_says_what_it_cannot(folder):
    at = folder.parent / "late_fusion"
    train_run(load_study(source_of(folder)), CONFIG, at, kind="late_fusion")
    predictor = Predictor.from_pretrained(at)
    patient = predictor.patients(folder)[0]
    answer = predictor.diagnose(patient)
    assert sum(answer.probability.values()) == pytest.approx(1, abs=1e-5)
    assert answer.unlike_training is None
    for ask in (predictor.explain, predictor.next_test):
        with pytest.raises(Refusal, match="is a LateFusion, expected RobustMDiff"):
            ask(patient)


def test_a_device_that_is_not_there(folder):
    with pytest.raises(Refusal, match=r"device is 'abacus', which cannot be used \(.*\), expected cpu or"):
        Predictor.from_pretrained(folder.parent / "run", device="abacus")


def test_why_and_what_next(predictor, folder):
    patient = predictor.patients(folder)[1]
    labs = replace(patient, modalities={"labs": patient.modalities["labs"]})
    explanation = predictor.explain(labs, draws=4)
    assert explanation.target in predictor.task.classes
    tests = predictor.next_test(labs, draws=4)
    assert [test.modality for test in tests] == ["ct"]
    assert predictor.next_test(patient, draws=4) == ()


def test_without_data_its_own_test_patients_are_asked_about(predictor):
    ids = {patient.id for patient in predictor.run.study().patients["test"]}
    assert {answer.patient for answer in predictor.diagnose(predictor.patients(), draws=4)} == ids
