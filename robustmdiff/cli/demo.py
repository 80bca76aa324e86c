"""`robustmdiff demo` (`make demo`): everything once, small enough for five minutes on two cores."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson
from robustmdiff.cli.explain import explain_run
from robustmdiff.cli.show import show, transposed
from robustmdiff.refusal import Refusal

PATIENTS = {"train": 1000, "calibration": 200, "test": 300, "seed": 2}
SIZES = {"d_h": 64, "layers": 2, "patch": 16, "width": 96, "depth": 3, "max_tokens": 96}
TRAINING = {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "valid_every": 10}
BASELINES = ("late_fusion", "dropout_transformer", "mask_only")  # the others would take minutes more
NOTE = (
    "A rough model: 1,500 synthetic patients in all, minutes of training on a processor, one seed. "
    "It shows that everything works, not how well it can work; docs/results.md has the larger runs."
)


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything goes: a new folder.")] = Path(
        "runs/demo"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a demonstration in this folder stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and explain on 1,500 built-in patients: about five minutes on two cores.

    \b
    Example:
      robustmdiff demo --out runs/demo
    """
    summary = run_demo(out, resume=resume)
    show(summary, as_json, tables={"A rough model, in minutes": transposed(summary["headline"])})


def run_demo(folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train RobustMDiff and some baselines, evaluate them with modalities removed beside the exact
    posterior, explain one patient of whom half is missing; everything into `folder`."""
    import torch

    from robustmdiff.evaluation.report import headline, write_report
    from robustmdiff.experiment.evaluate import evaluate_run
    from robustmdiff.experiment.fit import train_with_baselines
    from robustmdiff.experiment.source import Source
    from robustmdiff.experiment.studies import load_study
    from robustmdiff.training.config import make_config
    from robustmdiff.whole import write_whole

    if (folder / "summary.json").exists():
        raise Refusal(f"{folder} holds a finished demonstration: look at it, or remove it to run again")
    began = time.monotonic()
    study = load_study(Source("cohort", options=PATIENTS))
    config = make_config({**TRAINING, "model": SIZES})
    train_with_baselines(study, config, folder, baselines=BASELINES, resume=resume)
    trained = time.monotonic()
    results = evaluate_run(folder, study=study, replicates=100)
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
