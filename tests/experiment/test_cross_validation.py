from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from robustmdiff.cli.main import app
from robustmdiff.cli.predict import predict_run
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.sources.folder import load_folder
from robustmdiff.data.splits import load_split
from robustmdiff.evaluation.conditions import COMPLETE, Subset, mcar
from robustmdiff.experiment import cross_validation
from robustmdiff.experiment.cross_validation import cross_validate, divide, evaluate_folds
from robustmdiff.experiment.run import load_run
from robustmdiff.experiment.source import Source
from robustmdiff.models import BASELINES, MODELS
from robustmdiff.training.config import make_config

REAL = Path(__file__).parents[2] / "../shared/data/chestxray"
FOLDS, REPEATS, SEED = 2, 2, 1
# One that is trained, one that is fitted, and one that the ward has nothing for: it has no findings.
FEW = ("late_fusion", "logistic_regression", "bottleneck")
SUITED = {"late_fusion", "logistic_regression"}
CONFIG = make_config(
    {
        "epochs": 2,
        "valid_every": 2,
        "batch_size": 16,
        "monitor": "log_loss",
        "model": {"d_h": 8, "heads": 2, "layers": 1, "width": 16, "depth": 1, "steps": 2, "draws": 3},
    }
)
ONTOLOGY = "format-version: 1.2\n\n[Term]\nid: X:1\nname: ill\n\n[Term]\nid: X:2\nname: well\n"


def ward(people):
    """Records of a folder: one to three for each person, ill or well for good."""
    rng = np.random.default_rng(0)
    lines = ["id,group,site,label,notes,panel.crp"]
    for person in range(people):
        ill = person % 2 == 0
        for visit in range(1 + person % 3):
            note = rng.choice(["cough", "fever", ""] if ill else ["no complaints", "check", ""])
            crp = "" if rng.random() < 0.3 else f"{rng.normal(40 if ill else 10, 15):.1f}"
            site = ("north", "south")[person % 5 == 0]
            lines.append(f"r{person}-{visit},person {person},{site},{'ill' if ill else 'well'},{note},{crp}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("ward")
    modalities = [
        {"name": "notes", "kind": "text"},
        {"name": "panel", "kind": "values", "fields": [{"name": "crp", "unit": "mg/l"}]},
    ]
    (root / "task.json").write_text(
        json.dumps({"modalities": modalities, "classes": ["ill", "well"]}), encoding="utf-8"
    )
    (root / "patients.csv").write_text(ward(41), encoding="utf-8")
    (root / "ontology.obo").write_text(ONTOLOGY, encoding="utf-8")
    return Source("folder", str(root), str(root / "ontology.obo"))


@pytest.fixture(scope="module", autouse=True)
def few_baselines():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_validation, "BASELINES", FEW)
        yield


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ward"
    return cross_validate(source, CONFIG, folder, folds=FOLDS, repeats=REPEATS)


@pytest.fixture(scope="module")
def results(made):
    return evaluate_folds(made[0].parents[1], draws=2, replicates=10, seed=SEED)


@pytest.mark.parametrize("seed", range(5))
def test_everyone_is_tested_once_and_nobody_is_on_two_sides(seed):
    rng = np.random.default_rng(seed)
    patients = [
        Patient(f"r{i}", {}, labels={rng.choice(["a", "b"]): True}, group=f"person {rng.integers(0, 29)}")
        for i in range(83)
    ]
    group = {patient.id: patient.group for patient in patients}
    for splits in divide(patients, 3, 2, seed):
        tested = Counter(id for split in splits for id in split["test"])
        assert tested == Counter(group.keys())
        for split in splits:
            people = [{group[id] for id in ids} for ids in split.values()]
            assert sum(map(len, split.values())) == len(patients)
            assert all(people)
            assert len(set.union(*people)) == sum(map(len, people))


def test_the_baselines_of_a_fold_are_those_of_the_registry():
    assert set(FEW) < set(BASELINES)
    assert all(MODELS[name].baseline for name in FEW)


def test_each_fold_is_a_run_with_every_baseline(made, source):
    assert len(made) == FOLDS * REPEATS
    patients, _ = load_folder(source.root)
    splits = [load_split(place / "split.json", patients) for place in made]  # refuses a person on two sides
    assert splits[0] != splits[FOLDS]  # repeats divide anew
    for place in made:
        names = {path.parent.name for path in place.glob("baselines/*/model")}
        assert names == {*SUITED, "notes_only"}


def test_a_fold_predicts_the_people_it_was_not_trained_on(made):
    for place in made[:2]:
        test = json.loads((place / "split.json").read_text(encoding="utf-8"))["test"]
        assert {row["patient"] for row in predict_run(place, draws=2)} == set(test)


def test_pooled_auroc_is_that_of_the_answers_out_of_fold(made, results, source):
    of = {patient.id: patient for patient in load_folder(source.root)[0]}
    assert set(results.masks.ids) == set(of)
    for method, below in (("RobustMDiff", ""), ("late_fusion", "baselines/late_fusion")):
        by_repeat = []
        for repeat in range(REPEATS):
            score, ill = [], []
            for place in made[repeat * FOLDS : (repeat + 1) * FOLDS]:
                run = load_run(place / below)
                test = [
                    of[id] for id in json.loads((place / "split.json").read_text(encoding="utf-8"))["test"]
                ]
                with torch.no_grad():
                    diagnosis = run.model.diagnose(run.model.encode(run.collator(test)), draws=2, seed=SEED)
                score += diagnosis.probability[:, 0].tolist()
                ill += ["ill" in patient.labels and patient.labels["ill"] for patient in test]
            by_repeat.append(roc_auc_score(ill, score))
        found = results.interval(method, COMPLETE, "auroc/ill")
        assert found.value == pytest.approx(np.mean(by_repeat), abs=1e-9)
        assert found.low < found.high


def test_every_method_and_condition_is_measured(results):
    assert results.methods[0] == "RobustMDiff"
    assert set(results.methods[1:]) == {*SUITED, "notes_only", "source_only"}
    for condition in (COMPLETE, mcar(0.5), Subset(("notes",)), Subset(("panel",))):
        assert results.difference("RobustMDiff", "notes_only", condition, "auroc/macro") is not None
    # A model that reads notes only does not care about the rest.
    alone = [results.probability["notes_only"][c] for c in (COMPLETE, Subset(("notes",)))]
    np.testing.assert_array_equal(*alone)


def test_folds_are_evaluated_in_the_terms_that_they_were_trained_in(made, results, source, tmp_path):
    folder, root = tmp_path / "ward", tmp_path / "data"
    shutil.copytree(made[0].parents[1], folder)
    shutil.copytree(source.root, root)
    plan = json.loads((folder / "folds.json").read_text(encoding="utf-8"))
    plan["source"]["root"] = str(root)
    (folder / "folds.json").write_text(json.dumps(plan), encoding="utf-8")
    task = json.loads((root / "task.json").read_text(encoding="utf-8"))
    panel, notes = task["modalities"][1], task["modalities"][0]
    panel["fields"][0]["unit"] = "g/l"
    task |= {"modalities": [panel, notes], "classes": ["well", "ill"]}
    (root / "task.json").write_text(json.dumps(task), encoding="utf-8")
    header, *rows = (root / "patients.csv").read_text(encoding="utf-8").splitlines()
    rows = [row + "e-3" * (not row.endswith(",")) for row in rows]  # crp is the last column
    (root / "patients.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    found = evaluate_folds(folder, draws=2, replicates=10, seed=SEED)
    for method in results.methods:
        for condition in (COMPLETE, Subset(("notes",)), Subset(("panel",))):
            np.testing.assert_allclose(
                found.probability[method][condition], results.probability[method][condition], atol=1e-6
            )


def test_finished_folds_are_not_trained_again(made, source, monkeypatch):
    folder = made[0].parents[1]
    trained = []
    train_run = cross_validation.train_run
    monkeypatch.setattr(
        cross_validation, "train_run", lambda *args, **kw: trained.append(args[2]) or train_run(*args, **kw)
    )
    assert cross_validate(source, CONFIG, folder, folds=FOLDS, repeats=REPEATS, resume=True) == made
    assert trained == []
    unfinished = made[1] / "baselines" / "logistic_regression"
    (unfinished / "conformal.json").unlink()
    cross_validate(source, CONFIG, folder, folds=FOLDS, repeats=REPEATS, resume=True)
    assert trained == [unfinished]


def test_another_plan_is_refused(made, source, tmp_path):
    folder = made[0].parents[1]
    with pytest.raises(DataError, match=r"holds a cross-validation, expected a new folder, or --resume"):
        cross_validate(source, CONFIG, folder, folds=FOLDS, repeats=REPEATS)
    with pytest.raises(DataError, match="is another plan"):
        cross_validate(source, CONFIG, folder, folds=FOLDS + 1, repeats=REPEATS, resume=True)
    with pytest.raises(DataError, match="the cohort makes its own split"):
        cross_validate(Source("cohort"), CONFIG, tmp_path / "cohort")
    with pytest.raises(DataError, match="holds no cross-validation"):
        evaluate_folds(tmp_path)


def test_the_command_evaluates_the_folds_together_and_explains_one(made, results, monkeypatch, undrawn):
    folder, asked = made[0].parents[1], []
    monkeypatch.setattr(
        cross_validation, "evaluate_folds", lambda *x, **how: asked.append((*x, how)) or results
    )
    answer = CliRunner().invoke(
        app, ["evaluate", str(folder), "--draws", "2", "--replicates", "10", "--seed", "1", "--json"]
    )
    assert answer.exit_code == 0, answer.output
    ((where, how),) = asked
    assert where == folder
    assert {"draws": 2, "replicates": 10, "seed": SEED}.items() <= how.items()
    report = (folder / "evaluation" / "report.md").read_text(encoding="utf-8")
    assert f"{FOLDS}-fold cross-validation by person, repeated {REPEATS} times" in report
    assert "Tested: 41 people, " in report
    assert "Training of RobustMDiff" in report  # the notes of the folds
    found = json.loads((folder / "evaluation" / "results.json").read_text(encoding="utf-8"))
    assert found["paired_differences"]["RobustMDiff - notes_only"]["subset/panel"]["auroc/macro"]
    answer = CliRunner().invoke(app, ["explain", str(made[0]), "--draws", "2"])
    assert answer.exit_code == 0, answer.output
    assert list(made[0].glob("patients/*.html"))


def test_calibration_counts_people(made, source):
    """Asked about under every subset of what they have, they are no more people."""
    of = {patient.id: patient for patient in load_folder(source.root)[0]}
    for place in made:
        calibration = json.loads((place / "split.json").read_text(encoding="utf-8"))["calibration"]
        people = {of[id].person for id in calibration}
        assert load_run(place).conformal.quantiles[0]["all"].people == len(people)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here (../shared/data/chestxray)")
def test_the_real_question_runs_end_to_end(tmp_path):
    source = Source("covid", str(REAL), options={"image_size": 32})
    made = cross_validate(source, CONFIG, tmp_path, folds=2, repeats=1)
    assert len(made) == 2
    results = evaluate_folds(tmp_path, draws=2, replicates=20)
    assert len(set(results.groups)) == 77
    assert len(results.masks.ids) == 160
    assert 0.2 < results.interval("RobustMDiff", COMPLETE, "auroc/COVID-19").value < 1


def test_folds_take_no_sites_to_test(source, tmp_path):
    asked = replace(source, options={"test_sites": "north"})
    with pytest.raises(DataError, match="option test_sites is 'north', expected none with folds"):
        cross_validate(asked, CONFIG, tmp_path / "folds")
