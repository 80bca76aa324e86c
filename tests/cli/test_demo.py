"""The demonstration, made tiny: it stops, is resumed as it is told, and is not made twice."""

from __future__ import annotations

import json

import pytest

from robustmdiff.cli import demo
from robustmdiff.experiment import evaluate as experiment
from robustmdiff.refusal import Refusal


@pytest.fixture
def tiny(monkeypatch, tmp_path, undrawn):
    monkeypatch.setenv("RMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "PATIENTS", {"train": 40, "calibration": 12, "test": 12, "image_size": 16})
    sizes = {"patch": 8, "d_h": 8, "heads": 2, "layers": 1, "width": 16, "depth": 1, "steps": 2, "draws": 2}
    monkeypatch.setattr(demo, "SIZES", sizes)
    monkeypatch.setattr(demo, "TRAINING", {"epochs": 1})
    evaluate = experiment.evaluate_run
    few = {"replicates": 10}  # resamples are most of so small an evaluation
    monkeypatch.setattr(experiment, "evaluate_run", lambda *a, **options: evaluate(*a, **options | few))
    return tmp_path / "demo"


@pytest.mark.slow  # a demo, twice
def test_it_stops_and_goes_on(tiny, monkeypatch):
    with monkeypatch.context() as stopped:

        def stop(*_, **__):
            raise KeyboardInterrupt

        stopped.setattr(experiment, "evaluate_run", stop)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(tiny)
    with pytest.raises(Refusal, match="holds a run, expected a new folder, or --resume"):
        demo.run_demo(tiny)
    summary = demo.run_demo(tiny, resume=True)
    assert {row["method"] for row in summary["headline"]} >= {"RobustMDiff", *demo.BASELINES, "ceiling"}
    assert json.loads((tiny / "summary.json").read_text(encoding="utf-8"))["patient"] == str(
        tiny / "patient.html"
    )
    assert (tiny / "patient.html").exists()
    with pytest.raises(Refusal, match="holds a finished demonstration"):
        demo.run_demo(tiny, resume=True)
