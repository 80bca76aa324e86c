"""What is shown beside the models: the sites alone, and what physicians stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.support2 import load_support2
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.evaluation.conditions import COMPLETE, MCAR
from robustmdiff.experiment import cross_validation
from robustmdiff.experiment.cross_validation import cross_validate, evaluate_folds
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.references import estimated, references
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import Study, load_study
from robustmdiff.training.config import TrainConfig
from tests.experiment.support2 import DEATH, write_support2

MODEL = ModelConfig(d_h=8, layers=1, heads=2, width=12, depth=1, steps=2, draws=3, T=50)
CONFIG = TrainConfig(model=MODEL, epochs=2, batch_size=32)
PATIENTS = 300


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("support2")
    return Source("support2", str(root), ontology=write_support2(root, PATIENTS))


@pytest.fixture(scope="module")
def study(source):
    return load_study(source)


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    return train_run(study, CONFIG, tmp_path_factory.mktemp("run") / "run", kind="late_fusion")


def test_the_physician_is_scored_on_the_patients_of_whom_there_is_an_estimate(run, study):
    stated = {p.id: p for p in study.patients["test"] if int(p.id) % 4}
    assert 0 < len(stated) < len(study.patients["test"])
    results = evaluate_run(run, physician=True, replicates=20)
    assert set(results.masks.ids) == set(stated)
    patients = [stated[id] for id in results.masks.ids]
    death = [p.estimate[DEATH] for p in patients]
    assert {0, 1} & set(death)
    dies = [p.labels.get(DEATH, False) for p in patients]
    for condition in (COMPLETE, MCAR(0.5)):  # what is hidden from the models changes nothing
        found = results.values["physician"][condition]
        assert found[f"auroc/{DEATH}"][0] == pytest.approx(roc_auc_score(dies, death), abs=1e-9)
        meant = np.clip(death, 0.005, 0.995)  # of an estimate in whole per cent
        assert found["brier"][0] == pytest.approx(2 * brier_score_loss(dies, meant), abs=1e-9)
        assert found["log_loss"][0] == pytest.approx(log_loss(dies, meant), abs=1e-9)
    assert results.difference("LateFusion", "physician", COMPLETE, "auroc/macro") is not None


def test_the_models_answer_as_they_do_among_all_test_patients(run):
    some, every = evaluate_run(run, physician=True, replicates=10), evaluate_run(run, replicates=10)
    assert "physician" not in every.methods
    rows = [every.masks.ids.index(id) for id in some.masks.ids]
    answers = [of.probability["LateFusion"][COMPLETE] for of in (every, some)]
    np.testing.assert_allclose(answers[0][rows], answers[1], rtol=0, atol=1e-6)


def test_folds_pool_the_patients_of_whom_there_is_an_estimate(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validation, "models_of", lambda task: [("", "late_fusion", {})])
    cross_validate(source, CONFIG, tmp_path / "folds", folds=2, repeats=1)
    results = evaluate_folds(tmp_path / "folds", physician=True, replicates=10)
    stated = {p.id: p.estimate[DEATH] for p in load_support2(source.root)[0] if p.estimate}
    assert set(results.masks.ids) == set(stated)
    said = results.probability["physician"][COMPLETE][:, 0]
    expected = np.clip([stated[id] for id in results.masks.ids], 0.005, 0.995)
    np.testing.assert_allclose(said, expected, atol=1e-6)


def test_where_no_physician_was_asked_there_is_none(source):
    patients, task = load_support2(source.root, "hospital_death")
    study = Study(source, task, {"train": [], "calibration": [], "test": patients})
    with pytest.raises(DataError, match=r"support2: none of 300 test patients has a physician's estimate"):
        estimated(study)


def test_sites_are_a_reference_where_there_are_two(study):
    assert references(study) == {}
    two = {
        name: [replace(p, site="north" if p.labels.get(DEATH) else "south") for p in patients]
        for name, patients in study.patients.items()
    }
    answer = references(replace(study, patients=two))["source_only"]
    dies = [DEATH in p.labels for p in two["test"]]
    assert (np.asarray(answer(np.ones((len(dies), 5), bool)))[:, 0] > 0.5).tolist() == dies
