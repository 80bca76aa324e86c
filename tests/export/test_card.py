"""model_card.json: its thresholds are those that decide, its numbers those of the evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustmdiff.evaluation.protocol import evaluate
from robustmdiff.evaluation.report import to_json
from robustmdiff.experiment.run import SPLIT, Run, digest
from robustmdiff.export.card import INTENDED_USE, NOT_INTENDED, _published, evaluation, model_card, thresholds
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.manifest import Manifest
from tests.evaluation.ward import TASK, Stub, collate, ward

ROOT = Path(__file__).parents[2]


@pytest.fixture
def evaluated(with_draws, tmp_path) -> tuple[Run, dict]:
    """The run, beside it what an evaluation found of a method of its name, and that."""
    people = [replace(patient, site="north" if i % 3 else "south") for i, patient in enumerate(ward(60)[0])]
    found = to_json(evaluate({"RobustMDiff": Stub()}, people, collate, TASK, replicates=10))
    run = with_draws.predictor.run
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(found), encoding="utf-8")
    (tmp_path / SPLIT).write_bytes((run.folder / SPLIT).read_bytes())
    return replace(run, folder=tmp_path), found


def test_it_lies_beside_the_engine_and_names_every_file_of_the_model(with_draws):
    card = json.loads((with_draws.folder / "model_card.json").read_text(encoding="utf-8"))
    run = with_draws.predictor.run
    written = Manifest.load(with_draws.folder).files
    assert card["sha256"]["run"] == digest(run.folder)
    assert set(card["sha256"]["files"]) == {"model.onnx", "noise.npz", "tokenizer.json"}
    assert card["sha256"]["files"].items() <= written.items()
    assert written.keys() - card["sha256"]["files"].keys() == {"model_card.json", "bom.cdx.json"}
    assert card["task"]["classes"] == dict(zip(run.task.classes, run.task.prevalence, strict=True))
    assert card["task"]["modalities"]["text"] == {"kind": "text", "encoder": None}
    assert card["populations"]["records"] == {"train": 10, "calibration": 3, "test": 0}
    assert card["evaluation"] is None  # nobody asked for one


def test_a_class_is_in_the_set_from_the_least_probability_on(with_draws):
    run = with_draws.predictor.run
    least = np.array([*thresholds(run)["prediction_sets"]["least_probability"].values()])  # [C, M + 1]
    C, sizes = least.shape
    M = sizes - 1
    sets, tried = run.conformal, 0
    for k in range(sizes):
        presence = np.arange(M)[None] < k
        for c in range(C):
            for p, inside in ((least[c, k] + 1e-4, True), (least[c, k] - 1e-4, False)):
                if not 0 < p < 0.5:  # there the set cannot do without the class, or with it
                    continue
                stated = np.full((1, C), (1 - p) / (C - 1))
                stated[0, c - 1] += 0.4  # some other is likeliest
                stated[0, c] = p
                stated /= stated.sum()
                stated[0, c] = p
                assert sets.sets(stated, presence)[0, c] == inside, (k, c)
                tried += 1
    assert tried > C


def test_abstention_beyond_its_distances(with_draws):
    run = with_draws.predictor.run
    limits = [None if np.isinf(t) else pytest.approx(t, abs=1e-6) for t in run.abstention.threshold]
    assert thresholds(run)["abstention"]["distance"] == limits
    assert thresholds(replace(run, abstention=None))["abstention"]["distance"] == []


def test_what_was_evaluated_is_there_with_its_subgroups(evaluated):
    run, found = evaluated
    card = model_card(run, {})
    shown = card["evaluation"]
    assert (shown["records"], shown["people"]) == (60, 60)
    assert set(shown["metrics"]) == {"mcar/0.0", "mcar/0.5"}
    complete = found["methods"]["RobustMDiff"]["conditions"]["mcar/0.0"]
    assert shown["metrics"]["mcar/0.0"]["auroc/macro"] == complete["auroc/macro"]
    assert [(group["group"], group["people"]) for group in shown["subgroups"]] == [
        ("everyone", 60),
        ("site north", 40),
        ("site south", 20),
    ]
    north = found["groups"]["site north"]["methods"]["RobustMDiff"]
    assert shown["subgroups"][1]["metrics"] == north
    assert "coverage" in str(north) or "ece" in str(north)


def test_an_evaluation_of_an_earlier_version_has_what_it_has(evaluated):
    run, found = evaluated
    before = {key: found[key] for key in ("records", "methods")}
    (run.folder / "evaluation" / "results.json").write_text(json.dumps(before), encoding="utf-8")
    shown = evaluation(run)
    assert (shown["people"], shown["subgroups"]) == (None, [])
    complete = found["methods"]["RobustMDiff"]["conditions"]["mcar/0.0"]
    assert shown["metrics"]["mcar/0.0"]["accuracy"] == complete["accuracy"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"methods": {"RobustMDiff": null}}'])
def test_a_damaged_evaluation_is_refused(evaluated, damage):
    run, _ = evaluated
    path = run.folder / "evaluation" / "results.json"
    path.write_text(damage, encoding="utf-8")
    with pytest.raises(Refusal, match=r"results\.json: is no evaluation of this run"):
        evaluation(run)


def test_a_pretrained_encoder_has_its_name_and_no_path_of_this_machine(tmp_path):
    assert _published(None) is None
    assert _published("hospital/vision-model") == "hospital/vision-model"
    assert _published(str(tmp_path)) == tmp_path.name


def test_the_page_says_what_the_card_says():
    page = " ".join((ROOT / "docs" / "model_card.md").read_text(encoding="utf-8").split())
    assert f"**Intended use.** {INTENDED_USE}" in page
    assert f"**Not intended.** {NOT_INTENDED}" in page
