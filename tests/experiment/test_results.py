"""`make results`, made tiny: killed and started again it gives what one run gives, and the tables say it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from robustmdiff.evaluation.conditions import COMPLETE
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.models import BY_NAME
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import load_checkpoint
from tools.results import tables, work
from tools.results.plan import read_plan

ROOT = Path(__file__).parents[2]
MODEL = {
    "layers": 1,
    "heads": 2,
    "patch": 8,
    "max_tokens": 24,
    "width": 12,
    "depth": 1,
    "steps": 2,
    "draws": 2,
}
TINY = {
    "trials": 2,
    "seeds": [0, 1],
    "replicates": 10,
    "methods": ["robustmdiff", "mask_only", "logistic_regression"],
    "studies": {
        "tiny": {
            "data": "cohort",
            "options": {"train": 40, "calibration": 20, "test": 25, "image_size": 16},
            "config": {"epochs": 3, "batch_size": 20, "model": MODEL},
        },
        "elsewhere": {"data": "folder", "root": "/nowhere/at/all"},
    },
}
# A process that is killed, as by a power cut, in this step of all that mask_only makes.
KILLED = """
import os, signal, sys
from robustmdiff.baselines.mask_only import MaskOnly
from tools.results.__main__ import main

steps = []
def after_step(self):
    steps.append(1)
    if len(steps) == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
MaskOnly.after_step = after_step
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(plan, tmp_path_factory):
    """out, records"""
    out, records = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("records")
    work.run(read_plan(plan), out, records)
    return out, records


def lines(records):
    """What a record says, without what it cost, and of which commit and day it is."""
    rows = work.read_lines(records / "tiny.jsonl")
    return [{k: v for k, v in row.items() if k not in ("cpu_seconds", "commit", "date")} for row in rows]


def files(folder):
    """What of a folder of runs a reader uses: weights, calibration, trials without their seconds."""
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("model.safetensors")}
    found |= {p.relative_to(folder): p.read_bytes() for p in folder.rglob("conformal.json")}
    trials = {
        p.relative_to(folder): json.loads(p.read_text(encoding="utf-8")) for p in folder.rglob("trial-*.json")
    }
    return found | {name: {**trial, "cpu_seconds": 0} for name, trial in trials.items()}


def test_a_line_for_each_method_says_what_evaluate_says(made):
    out, records = made
    rows = {row["method"]: row for row in work.read_lines(records / "tiny.jsonl")}
    assert set(rows) == {*TINY["methods"], "ceiling", "source_only"}
    assert next(iter(rows)) == "robustmdiff"
    assert [path.name for path in records.iterdir()] == ["tiny.jsonl"]  # the other study is not here
    alone = [evaluate_run(out / "tiny" / f"seed-{seed}", replicates=10) for seed in (0, 1)]
    for metric in ("auroc/macro", "log_loss", "coverage", "set_size"):
        values = [one.values["logistic_regression"][COMPLETE][metric][0] for one in alone]
        found = rows["logistic_regression"]["values"]["complete"][metric]
        assert found[0] == pytest.approx(sum(values) / 2, abs=1e-12)
        ours = rows["robustmdiff"]["values"]["half"][metric][0]
        difference = rows["mask_only"]["ours_minus"]["half"][metric][0]
        assert difference == pytest.approx(ours - rows["mask_only"]["values"]["half"][metric][0], abs=1e-12)
    for when, condition in alone[0].tabled.items():  # under the masks that evaluate draws
        values = [one.values["RobustMDiff"][condition]["brier"][0] for one in alone]
        found = rows["robustmdiff"]["values"][when]["brier"][0]
        assert found == pytest.approx(sum(values) / 2, abs=1e-12)
    assert rows["robustmdiff"]["values"].keys() == {"complete", "half", "half, MNAR"}
    energy = [one.forecasts.scores["neighbours"].energy[0] for one in alone]
    found = rows["robustmdiff"]["forecasts"]
    assert found["scores"]["neighbours"]["energy"][0] == pytest.approx(sum(energy) / 2, abs=1e-12)
    assert 0 < found["people"] <= 25
    assert rows["robustmdiff"]["groups"]["everyone"]["people"] == 25
    for method in TINY["methods"]:
        assert rows[method]["cpu_seconds"]["tuning"] > 0 < rows[method]["cpu_seconds"]["training"]
    assert rows["logistic_regression"]["trial"].keys() == {"l2"}
    assert rows["robustmdiff"]["people"] == 25


def test_what_is_there_is_not_made_again(plan, made, monkeypatch):
    for name in ("train_run", "evaluate_run"):
        monkeypatch.setattr(work, name, lambda *_, **__: pytest.fail("made again"))
    work.run(read_plan(plan), *made)


@pytest.mark.slow  # every run of a small plan, anew
def test_killed_and_started_again_it_gives_the_same(plan, made, tmp_path):
    """RobustMDiff is done. mask_only takes 6 steps in each of its 2 trials, then 6 in each of its 2 runs, and
    saves every 2: it is killed after 2 steps of the second trial, and then, with 4 of it left, after 2 of the
    first run."""
    out, records = tmp_path / "out", tmp_path / "records"
    shutil.copytree(made[0], out, ignore=shutil.ignore_patterns(*TINY["methods"][1:]))
    assert not list(out.rglob("mask_only"))
    arguments = ["--plan", str(plan), "--out", str(out), "--records", str(records)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    left = {9: "tuning/mask_only/trial-01", 7: "seed-0/baselines/mask_only"}
    for step, unfinished in left.items():
        command = [sys.executable, "-c", KILLED.format(step=step), *arguments]
        killed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert load_checkpoint(out / "tiny" / unfinished / "last.safetensors").step == 2
        assert not records.exists()
    work.run(read_plan(plan), out, records)
    assert lines(records) == lines(made[1])
    assert files(out) == files(made[0])


def test_a_table_says_what_is_recorded(made):
    page = "before\n<!-- results: tiny -->\nold\n<!-- end of results -->\nafter\n"
    text = tables.rewritten(page, made[1])
    assert text.startswith(
        "before\n<!-- results: tiny -->\n25 people are tested; 2 trials a method; training"
    )
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert tables.rewritten(text, made[1]) == text
    rows = {row["method"]: row for row in work.read_lines(made[1] / "tiny.jsonl")}
    value, low, high = rows["mask_only"]["values"]["half"]["log_loss"]
    assert f"{value:.3f} ({low:.3f} to {high:.3f})" in text
    assert "| mask_only |" in text
    minus = text.partition("RobustMDiff minus each")[2].partition("Prediction sets")[0]
    assert "| ceiling |" in minus
    assert "| robustmdiff |" not in minus
    assert f"l2 {rows['logistic_regression']['trial']['l2']:g}" in text
    size = rows["mask_only"]["values"]["half, MNAR"]["set_size"]
    assert f"| {size[0]:.3f} ({size[1]:.3f} to {size[2]:.3f}) |" in text
    order = rows["robustmdiff"]["forecasts"]["fixed_order"]
    assert f"| a fixed order of tests |  |  | {order[0]:.3f} (" in text


def test_without_a_record_the_page_says_so(tmp_path):
    page = "<!-- results: tiny -->\nold\n<!-- end of results -->\n"
    assert tables.rewritten(page, tmp_path) == page.replace("old\n", tables.NONE)


def test_the_pages_are_what_the_records_say():
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert any(tables.PLACE.search(page.read_text(encoding="utf-8")) for page in pages)
    stale = tables.stale(pages, ROOT / "results")
    assert not stale, f"{', '.join(map(str, stale))}: run `python -m tools.results --tables`"


def test_the_plan_that_is_shipped_can_be_read_and_another_is_refused(tmp_path):
    plan = read_plan(ROOT / "configs" / "results.yaml")
    assert plan.trials == 12
    assert set(BY_NAME) - set(plan.methods) == {"medm2g", "medcodi_m"}
    assert {"medm2g", "medcodi_m"} <= set(plan.studies["completion"].methods)
    assert all(study.start(seed=3).seed == 3 for study in plan.studies.values())
    path = tmp_path / "plan.yaml"
    for wrong, said in (
        ({"seeds": []}, "seeds"),
        ({"trails": 3}, "trails"),
        ({"methods": ["mask_only"]}, "expected robustmdiff and then some of late_fusion"),
        ({"methods": ["robustmdiff", "oracle"]}, "methods are robustmdiff, oracle, expected"),
    ):
        path.write_text(yaml.safe_dump(TINY | wrong), encoding="utf-8")
        with pytest.raises(Refusal, match=said):
            read_plan(path)
