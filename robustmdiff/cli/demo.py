"""`make demo`: everything once, small enough for six minutes on two cores."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from robustmdiff.cli.predict import explain_run
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.experiment.run import evaluate_run, train_with_baselines
from robustmdiff.experiment.studies import Source, load_study
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import TrainConfig
from robustmdiff.whole import write_whole

SOURCE = Source("cohort", options={"train": 1000, "calibration": 200, "test": 300, "seed": 2})
MODEL = ModelConfig(d_h=64, layers=2, patch=16, width=96, depth=3, max_tokens=96)
CONFIG = TrainConfig(model=MODEL, epochs=20, batch_size=64, learning_rate=2e-3, valid_every=10)
NOTE = (
    "A rough model: 1,500 synthetic patients in all, minutes of training on a processor, one seed. "
    "It shows that everything works, not how well it can work; docs/results.md has the larger runs."
)


def run_demo(folder: Path) -> dict[str, Any]:
    """Train RobustMDiff and three baselines, evaluate them with modalities removed beside the exact
    posterior, explain one patient of whom half is missing; everything into `folder`."""
    from robustmdiff.evaluation.report import headline, write_report

    if (folder / "summary.json").exists():
        raise Refusal(f"{folder} holds a finished demonstration: look at it, or remove it to run again")
    began = time.monotonic()
    study = load_study(SOURCE)
    train_with_baselines(study, CONFIG, folder, baselines=True, resume=True)
    trained = time.monotonic()
    results = evaluate_run(folder, study=study, draws=MODEL.draws, replicates=100)
    command = "Made by `make demo`."
    write_report(results, folder / "evaluation", title="Demonstration", notes=[command, NOTE])
    evaluated = time.monotonic()
    _, page = explain_run(folder, hide=("ct", "mri", "genomic"), out=folder / "patient.html")
    summary = {
        "note": NOTE,
        "headline": headline(results),
        "report": str(folder / "evaluation" / "report.md"),
        "patient": str(page),
        "seconds": {
            "data and training": round(trained - began),
            "evaluation": round(evaluated - trained),
            "explanation": round(time.monotonic() - evaluated),
        },
        "threads": torch.get_num_threads(),
    }
    write_whole(folder / "summary.json", json.dumps(summary, indent=1).encode())
    return summary
