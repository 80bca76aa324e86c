from __future__ import annotations

import shutil

import numpy as np

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.diagnosis.sets import Cell, ConformalSets
from robustmdiff.evaluation.conditions import COMPLETE
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.training.notes import read_notes
from tests.experiment.small_run import OPTIONS


def test_the_evaluation_hands_on_what_training_noted(run):
    study, trained = run
    noted = read_notes(trained.folder)
    assert noted
    name = type(trained.model).__name__
    found = evaluate_run(trained, replicates=0)
    assert found.notes == study.notes + tuple(f"Training of {name}: {note.sentence}" for note in noted)


def test_beside_a_correlated_cohort_stands_what_independence_would_say(run):
    _, trained = run
    study = load_study(Source("cohort", options=OPTIONS | {"correlation": 0.8}))
    found = evaluate_run(trained, study=study, replicates=0)
    assert "independence_assumed" not in evaluate_run(trained, replicates=0).values
    test = make_cohort(CohortConfig(patients=OPTIONS["test"], seed=2, image_size=16, correlation=0.8))
    for condition, assumed in found.probability["independence_assumed"].items():
        expected = test.posterior(found.kept(condition), correlation=0.0)
        np.testing.assert_allclose(assumed, expected, atol=1e-6)
    exact, assumed = (found.probability[name][COMPLETE] for name in ("ceiling", "independence_assumed"))
    assert np.abs(exact - assumed).max() > 0.01


def test_evaluation_scores_the_sets_that_are_shipped(run, tmp_path):
    """Those of the run's folder, and of no other making: with a wider quantile everything is covered."""
    folder = shutil.copytree(run[1].folder, tmp_path / "run")
    found = evaluate_run(folder, replicates=5)
    shipped = ConformalSets.load(folder / "conformal.json")
    for condition, probability in found.probability["MaskOnly"].items():
        expected = shipped.sets(probability.astype(float), found.kept(condition))
        np.testing.assert_array_equal(found.sets["MaskOnly"][condition], expected)
    assert not all(found.sets["MaskOnly"][condition].all() for condition in found.masks.keep)
    everything = ConformalSets(0.1, EXCLUSIVE, [{"all": Cell(2.0, 7, "all")}])
    everything.save(folder / "conformal.json")
    found = evaluate_run(folder, replicates=5)
    assert all(values["set_size"][0] == 12 for values in found.values["MaskOnly"].values())
