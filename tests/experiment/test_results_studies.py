"""`make results` where a study takes another's settings, is cross-validated, or physicians were asked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.evaluation.conditions import COMPLETE
from robustmdiff.evaluation.masks import draw_masks
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.results import Results
from robustmdiff.experiment import cross_validation
from robustmdiff.experiment.studies import load_study
from robustmdiff.experiment.tuning import draw
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import load_config
from tests.experiment.support2 import write_support2
from tools.results import measured, tables, work
from tools.results.plan import Plan

METHODS = ["robustmdiff", "mask_only"]
MODEL = {"layers": 1, "heads": 2, "width": 12, "depth": 1, "steps": 2, "draws": 2}
PATIENTS = 160


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    root = tmp_path_factory.mktemp("support2")
    data = {"data": "support2", "root": str(root), "ontology": write_support2(root, PATIENTS)}
    data["config"] = {"epochs": 2, "batch_size": 32, "forecast": "none", "model": MODEL}
    studies = {
        "hospital": data | {"options": {"target": "hospital_death"}, "methods": METHODS[:1], "tuned": "six"},
        "six": data,
        "folds": data | {"folds": 2, "tuned": "six"},
    }
    return Plan(trials=1, seeds=[0], replicates=10, methods=METHODS, studies=studies)


@pytest.fixture(scope="module")
def made(plan, tmp_path_factory):
    """out and records, the study first that the others are tuned by"""
    out, records = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("records")
    places = [("", "robustmdiff", {}), ("baselines/mask_only", "mask_only", {})]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_validation, "models_of", lambda task: places)
        work.run(plan, out, records, ["six"])
        work.run(plan, out, records)
    return out, records


def rows(made, name):
    return {row["method"]: row for row in work.read_lines(made[1] / f"{name}.jsonl")}


def test_the_settings_of_another_study_are_taken_and_cost_nothing(made):
    out, _ = made
    trial = draw("robustmdiff", 0, seed=0).settings
    for name, run in (("hospital", "seed-0"), ("folds", "repeat-0/fold-1")):
        assert load_config(out / name / run / "config.yaml").learning_rate == trial["learning_rate"]
        ours = rows(made, name)["robustmdiff"]
        assert ours["trial"] == trial
        assert ours["cpu_seconds"]["tuning"] == 0 < ours["cpu_seconds"]["training"]
        assert not (out / name / "tuning").exists()
    assert rows(made, "six")["robustmdiff"]["cpu_seconds"]["tuning"] > 0
    assert rows(made, "hospital").keys() == {"robustmdiff"}


def test_folds_test_everybody(made):
    found = rows(made, "folds")
    assert found.keys() == set(METHODS)
    assert found["robustmdiff"]["people"] == PATIENTS
    section = tables.section(made[1] / "folds.jsonl")
    assert f"{PATIENTS} people are tested; settings found in `six`; 1 x 2 folds by person" in section


def test_physicians_stand_beside_the_models_on_their_patients(plan, made):
    found = rows(made, "six_physician")
    assert found.keys() == {*METHODS, "physician"}
    test = load_study(plan.studies["six"].source()).patients["test"]
    assert found["physician"]["people"] == sum(bool(patient.estimate) for patient in test)
    assert rows(made, "six")["robustmdiff"]["people"] == len(test)
    assert not (made[1] / "hospital_physician.jsonl").exists()
    assert "| physician |" in tables.section(made[1] / "six_physician.jsonl")


def test_a_study_waits_for_the_one_that_it_is_tuned_by(plan, tmp_path, capsys):
    work.run(plan, tmp_path / "out", tmp_path / "records", ["hospital"])
    assert "hospital is left out: six has not tuned robustmdiff yet" in capsys.readouterr().err
    assert not (tmp_path / "records").exists()
    with pytest.raises(Refusal, match="--only is 'hopsital', expected some of hospital, six, folds"):
        work.run(plan, tmp_path / "out", tmp_path / "records", ["hopsital"])


def test_a_study_is_tuned_by_one_with_trials_of_its_own(plan):
    values = plan.model_dump(mode="json")
    values["studies"]["hospital"]["tuned"] = "folds"
    with pytest.raises(ValueError, match="hospital is tuned by 'folds', expected one of six"):
        Plan.model_validate(values)


def test_marginal_sets_hold_what_is_promised_of_the_tested_and_little_of_the_rare():
    """Ten patients, the rare one stated with the lowest probability: the threshold is the ninth of their ten
    probabilities of what they have, and the rare class is left out."""
    right = np.linspace(0.95, 0.5, 10)
    label = np.zeros((10, 3), dtype=bool)
    label[:9, 0] = label[9, 2] = True
    p = np.where(label, right[:, None], (1 - right[:, None]) / 2)
    p[9] = 0.45, 0.35, 0.2
    task = Task((Modality("a", "text"),), ("common", "other", "rare"), (0.8, 0.15, 0.05), rare=("rare",))
    ids, there = [f"p{i}" for i in range(10)], np.ones((10, 1), dtype=bool)
    masks = draw_masks(ids, there, ("a",), rates=(0.0, 0.5))
    results = Results(task, masks, there, Truth(label, np.ones_like(label)))
    for condition in (COMPLETE, results.half):
        results.add("model", condition, p, np.ones((1, 10)))
    # 9 of 10 are held at .55; of the tenth patient no class reaches it, so that the most probable is the set
    assert measured.marginal([results, results], "model")["complete"] == {"coverage/rare": 0, "set_size": 1}
    weighted = replace(results, weight=np.array([1.0] * 9 + [2.0]))
    # The ninth makes 9 of 11: the tenth is needed, at .2, where of the others the second class is held
    held = (p >= 0.2).sum(1)
    found = measured.marginal([weighted], "model")["complete"]
    assert found == {"coverage/rare": 1, "set_size": pytest.approx(np.average(held, weights=weighted.weight))}


def test_a_study_that_is_refused_does_not_stop_the_others(plan, tmp_path, capsys):
    values = plan.model_dump(mode="json")
    values["studies"] = {"wrong": values["studies"]["six"] | {"options": {"target": "fame"}}}
    work.run(Plan.model_validate(values), tmp_path / "out", tmp_path / "records")
    assert "wrong is left out: load_support2: target is 'fame', expected one of" in capsys.readouterr().err


VARIANTS = {
    "robustmdiff_aligned": {"of": "robustmdiff", "aligned": {"lambda_vi": 0.02, "epochs": 1}},
    "medm2g_guidance_3": {"of": "medm2g", "options": {"guidance": 3}},
}
ABLATED = {
    "data": "cohort",
    "options": {"train": 40, "calibration": 20, "test": 25, "image_size": 16},
    "config": {"epochs": 1, "batch_size": 20, "forecast": "none", "model": MODEL | {"patch": 8, "d_h": 8}},
    "trials": 0,
    "methods": ["robustmdiff", "medm2g"],
    "variants": VARIANTS,
}


def test_variants_have_rows_of_their_own(tmp_path):
    plan = Plan(trials=1, seeds=[0], replicates=10, studies={"ablated": ABLATED})
    out, records = tmp_path / "out", tmp_path / "records"
    work.run(plan, out, records)
    found = {row["method"]: row for row in work.read_lines(records / "ablated.jsonl")}
    assert found.keys() >= {"robustmdiff", "medm2g", *VARIANTS}
    assert found["medm2g_guidance_3"]["trial"] == {"guidance": 3}
    assert found["robustmdiff_aligned"]["trial"] == {}
    place = out / "ablated" / "seed-0" / "baselines"
    links = place / "robustmdiff_aligned" / "aligned" / "links"
    assert {path.name for path in links.iterdir()} >= {"text-xray", "text-ct"}
    assert "lambda_vi: 0.02" in (links / "text-xray" / "config.yaml").read_text(encoding="utf-8")
    described = json.loads((place / "medm2g_guidance_3" / "model" / "model.json").read_text(encoding="utf-8"))
    assert (described["kind"], described["options"]) == ("medm2g", {"guidance": 3})
    shared = [
        load_file(place / name / "model" / "model.safetensors") for name in ("medm2g", "medm2g_guidance_3")
    ]
    assert all(torch.equal(*(each[key] for each in shared)) for key in shared[0] if key.startswith("flows."))
    section = tables.section(records / "ablated.jsonl")
    assert "25 people are tested; default settings; training seeds 0" in section
    assert "| robustmdiff_aligned |" in section
    asked = found["medm2g"]["asked"]["plan"]
    assert asked["variants"].keys() == VARIANTS.keys()
    assert "variants" not in work.plan_of(plan, plan.studies["ablated"].model_copy(update={"variants": {}}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"variants": {"x": {"of": "late_fusion"}}},
            "x is of 'late_fusion', expected one of robustmdiff, medm2g",
        ),
        ({"variants": {"medm2g": {"of": "medm2g"}}}, "a variant is called 'medm2g'"),
        ({"methods": None}, "there are variants and no methods"),
        ({"tuned": "other"}, "trials is 0, expected none beside tuned and folds"),
    ],
)
def test_a_variant_is_of_one_of_the_methods(change, says):
    with pytest.raises(ValueError, match=says):
        Plan(seeds=[0], studies={"ablated": ABLATED | change})
