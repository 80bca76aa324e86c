"""The runs of a plan, one after the other; what is finished is not done again.

out/STUDY/
  tuning/METHOD/trial-NN.json     `experiment.tuning`
  seed-S/                         a run of RobustMDiff, and in baselines/METHOD those of the others
  seed-S/cost.json, seed-S/baselines/METHOD/cost.json     CPU seconds; written last
records/STUDY.jsonl               a line for each method: what the tables say
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from robustmdiff.evaluation.conditions import COMPLETE
from robustmdiff.evaluation.pooling import over_seeds
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import Interval
from robustmdiff.experiment.run import evaluate_run, train_run
from robustmdiff.experiment.studies import Study, load_study
from robustmdiff.experiment.tuning import Trial, tune
from robustmdiff.models import MODELS
from robustmdiff.whole import write_whole
from tools.results.plan import Plan, StudyPlan

METRICS = ("auroc/macro", "log_loss", "brier", "ece")


def run(plan: Plan, out: Path, records: Path) -> None:
    """Everything that is not there yet. A study whose folder is not here is left out, and told."""
    for name, study in plan.studies.items():
        source = study.source()
        if source.root and not Path(source.root).exists():
            print(f"{name} is left out: there is no {source.root}", file=sys.stderr)
            continue
        compare(plan, name, study, load_study(source), out / name, records / f"{name}.jsonl")


def compare(plan: Plan, name: str, planned: StudyPlan, study: Study, folder: Path, record: Path) -> None:
    """Tunes, trains and measures the methods that a study has something for; writes its record."""
    found: dict[str, dict[str, Any]] = {}
    for kind in plan.methods:
        if not MODELS[kind].suits(study.task):
            print(f"{name}: {kind} is left out, the task has no {MODELS[kind].reads}", file=sys.stderr)
            continue
        place = folder / "tuning" / kind
        trial, tuning = tune(study, planned.start(0), place, kind, trials=plan.trials)
        below = "" if kind == plan.methods[0] else f"baselines/{kind}"
        costs = [
            train_once(study, planned.start(seed), folder / f"seed-{seed}" / below, kind, trial)
            for seed in plan.seeds
        ]
        cost = {"tuning": tuning, "training": sum(costs)}
        found[kind] = {"trial": trial.settings | trial.options, "cpu_seconds": cost}
    asked = {"study": name, "plan": plan_of(plan, planned), "methods": list(found)}
    if record.exists() and all(row["asked"] == asked for row in read_lines(record)):
        return
    runs = [evaluate_run(folder / f"seed-{s}", study=study, replicates=plan.replicates) for s in plan.seeds]
    results, where = over_seeds(runs), made()
    rows = [
        {"method": kind} | found[kind] | measured(results, kind) | where | {"asked": asked} for kind in found
    ]
    write_whole(record, "".join(json.dumps(row) + "\n" for row in rows).encode())


def plan_of(plan: Plan, study: StudyPlan) -> dict[str, Any]:
    """What was planned for one study, in JSON's types."""
    shared = plan.model_dump(mode="json", exclude={"studies", "methods"})
    return shared | study.model_dump(mode="json")


def read_lines(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def train_once(study: Study, start: Any, folder: Path, kind: str, trial: Trial) -> float:
    """The CPU seconds of a run with the settings of a trial; of one that was cut off, those that ended it."""
    cost = folder / "cost.json"
    if not cost.exists():
        began = time.process_time()
        train_run(study, trial.configure(start), folder, kind=kind, options=trial.options, resume=True)
        write_whole(cost, json.dumps({"cpu_seconds": time.process_time() - began}).encode())
    return json.loads(cost.read_text(encoding="utf-8"))["cpu_seconds"]


def measured(results: Results, kind: str) -> dict[str, Any]:
    """Values with their intervals, of the method and of RobustMDiff minus it, [value, low, high]."""
    ours = results.methods[0]
    method = ours if kind == "robustmdiff" else kind
    conditions = {"complete": COMPLETE, "half": results.half}

    def numbers(interval: Interval | None) -> list[float | None] | None:
        """None for a bound that there is none of."""
        return interval and [None if math.isnan(number) else float(number) for number in interval]

    values = {
        when: {metric: numbers(results.interval(method, condition, metric)) for metric in METRICS}
        for when, condition in conditions.items()
    }
    ahead = {
        when: {metric: numbers(results.difference(ours, method, condition, metric)) for metric in METRICS}
        for when, condition in conditions.items()
    }
    return {"people": results.people, "values": values, "ours_minus": None if method == ours else ahead}


def made() -> dict[str, str]:
    """The commit and the day."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {"commit": described.stdout.strip(), "date": date.today().isoformat()}
