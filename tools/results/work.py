"""The runs of a plan, one after the other; what is finished is not done again.

out/STUDY/
  tuning/METHOD/trial-NN.json     `experiment.tuning`
  seed-S/                         a run of RobustMDiff, and in baselines/METHOD those of the others
  seed-S/baselines/VARIANT/       the same of each variant, and in aligned/ what its encoders start from
  seed-S/cost.json, seed-S/baselines/METHOD/cost.json     CPU seconds; written last
  repeat-R/fold-K/, cost.json     instead of seeds: a cross-validation, and its CPU seconds
records/STUDY.jsonl               a line for each method: what the tables say
records/STUDY_physician.jsonl     the same of the patients whose physician stated an estimate
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.data.task import Task
from robustmdiff.evaluation.conditions import COMPLETE, MCAR
from robustmdiff.evaluation.masks import Masks, draw_masks
from robustmdiff.evaluation.pooling import over_seeds
from robustmdiff.evaluation.results import Results
from robustmdiff.experiment.alignment import align_study
from robustmdiff.experiment.cross_validation import cross_validate, evaluate_folds
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.references import estimated
from robustmdiff.experiment.studies import Study, load_study
from robustmdiff.experiment.tuning import Trial, Tuned, best_of, tune
from robustmdiff.models import BY_NAME, MODELS
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole
from tools.results import measured
from tools.results.plan import Plan, StudyPlan, Variant

HALF = MCAR(0.5)
Row = dict[str, Any]


def run(plan: Plan, out: Path, records: Path, only: Sequence[str] = ()) -> None:
    """Every study, or those named, as far as it is not there yet. A study whose folder is not here, whose
    settings another has still to find, or that is refused, is left out, and told."""
    if unknown := sorted(set(only) - set(plan.studies)):
        raise Refusal(f"--only is {unknown[0]!r}, expected some of {', '.join(plan.studies)}")
    for name in only or plan.studies:
        source = plan.studies[name].source()
        if source.root and not Path(source.root).exists():
            print(f"{name} is left out: there is no {source.root}", file=sys.stderr)
            continue
        try:
            compare(plan, name, load_study(source), out, records)
        except Refusal as error:  # hours of other studies are still to come
            print(f"{name} is left out: {error}", file=sys.stderr)


def compare(plan: Plan, name: str, study: Study, out: Path, records: Path) -> None:
    """Tunes, trains and measures the methods that a study has something for; writes its records."""
    planned, folder, record = plan.studies[name], out / name, records / f"{name}.jsonl"
    tuned: dict[str, Tuned] = {}
    kinds = list(_suiting(plan, name, study.task))
    trials = plan.trials_of(plan.studies[planned.tuned or name])
    for kind in kinds if planned.tuned or not planned.folds else ():
        if trials == 0:
            tuned[kind] = Tuned(Trial({}, {}), 0.0)
            continue
        place = out / (planned.tuned or name) / "tuning" / kind
        if planned.tuned is None:
            tune(study, planned.start(0), place, kind, trials=trials)
        found = best_of(place, trials)
        if found is None:
            print(f"{name} is left out: {planned.tuned} has not tuned {kind} yet", file=sys.stderr)
            return
        # The seconds of trials stand in the table of the study that made them.
        tuned[kind] = found._replace(cpu_seconds=0.0) if planned.tuned else found
    asked = {"study": name, "plan": plan_of(plan, planned), "methods": kinds}
    if planned.folds:
        seconds = _cross_validated(planned, tuned, folder)
    else:
        seconds = _trained(plan, name, study, tuned, folder)
    if record.exists() and all(row["asked"] == asked for row in read_lines(record)):
        return
    about = made() | {"asked": asked}
    began = time.process_time()
    if planned.folds:
        runs = [evaluate_folds(folder, replicates=plan.replicates)]
    else:
        runs = _evaluated(plan, study, folder)
    stated = sum(bool(patient.estimate) for patient in study.patients["test"])
    if stated and not planned.folds:
        rows = rows_of(_evaluated(plan, study, folder, physician=True), measured.PROBABILITIES)
        _write(records / f"{name}_physician.jsonl", rows, about)
    rows = rows_of(runs, measured.PROBABILITIES + measured.SETS)
    for method, row in zip(runs[0].values, rows, strict=True):
        row["marginal"] = {} if planned.folds else measured.marginal(runs, method)
        variant = planned.variants.get(row["method"])
        trial = tuned.get(row["method"]) if variant is None else as_variant(tuned[variant.of], variant)
        row["trial"] = trial and trial.trial.settings | trial.trial.options
        row["cpu_seconds"] = {
            "tuning": trial.cpu_seconds if trial else 0.0,
            "training": seconds.get(row["method"], 0.0),
            "evaluation": 0.0,
        }
    rows[0]["cpu_seconds"]["evaluation"] = time.process_time() - began
    _write(record, rows, about)


def rows_of(runs: Sequence[Results], metrics: Sequence[str]) -> list[Row]:
    """A row for each method and reference, RobustMDiff's first, with what is of it alone."""
    results = over_seeds(runs) if len(runs) > 1 else runs[0]
    metrics = [*metrics, results.task.labels.calibration]
    if not results.task.rare:  # the common ones are all
        metrics = [metric for metric in metrics if metric not in ("coverage/common", "auroc/rare")]
    ours, people = results.methods[0], measured.people(results, metrics)
    rows = []
    for method in results.values:
        row = {"method": BY_NAME[0] if method == ours else method, "people": results.people, "of": people}
        row["answers"] = [one.answers[method] for one in runs if method in one.answers]
        rows.append(row | measured.of_method(results, method, metrics))
    if "coverage" in metrics:
        rows[0]["groups"] = measured.groups(results, ours)
    if results.forecasts is not None:
        rows[0]["forecasts"] = measured.forecasts(results.forecasts)
    return rows


def _suiting(plan: Plan, name: str, task: Task) -> Iterator[str]:
    for kind in plan.methods_of(plan.studies[name]):
        if MODELS[kind].suits(task):
            yield kind
        else:
            print(f"{name}: {kind} is left out, the task has no {MODELS[kind].reads}", file=sys.stderr)


def _trained(
    plan: Plan, name: str, study: Study, tuned: Mapping[str, Tuned], folder: Path
) -> dict[str, float]:
    """The CPU seconds of the runs of each method and variant."""
    planned, first = plan.studies[name], next(iter(tuned))
    planning: dict[str, tuple[str, Tuned, dict[str, Any] | None, str]] = {
        kind: (kind, each, None, "" if kind == first else f"baselines/{kind}") for kind, each in tuned.items()
    }
    for other, variant in planned.variants.items():
        if variant.of in tuned:
            own = as_variant(tuned[variant.of], variant)
            planning[other] = variant.of, own, variant.aligned, f"baselines/{other}"
    seconds = dict.fromkeys(planning, 0.0)
    for method, (kind, each, aligned, place) in planning.items():
        for seed in plan.seeds:
            where = folder / f"seed-{seed}" / place
            seconds[method] += train_once(study, planned.start(seed), where, kind, each, aligned)
    return seconds


def as_variant(tuned: Tuned, variant: Variant) -> Tuned:
    """The settings of the method that it is of, whose trials stand in that one's row, and its own options."""
    return Tuned(tuned.trial._replace(options=tuned.trial.options | variant.options), 0.0)


def train_once(
    study: Study,
    start: Any,
    folder: Path,
    kind: str,
    tuned: Tuned,
    aligned: dict[str, Any] | None = None,
) -> float:
    """The CPU seconds of a run with the settings of a trial; of one that was cut off, those that ended it.
    aligned: its encoders are aligned first, with these settings, in folder/aligned."""
    cost, trial = folder / "cost.json", tuned.trial
    if not cost.exists():
        began = time.process_time()
        config, prompts = trial.configure(start), None
        if aligned is not None:
            prompts = align_study(study, config, folder / "aligned", resume=True, **aligned)
        how: dict[str, Any] = {"kind": kind, "options": trial.options, "aligned": prompts}
        train_run(study, config, folder, resume=True, **how)
        write_whole(cost, json.dumps({"cpu_seconds": time.process_time() - began}).encode())
    return json.loads(cost.read_text(encoding="utf-8"))["cpu_seconds"]


def _cross_validated(planned: StudyPlan, tuned: Mapping[str, Tuned], folder: Path) -> dict[str, float]:
    """The CPU seconds of all methods, under the name of the first; without those of killed processes."""
    cost, so_far = folder / "cost.json", {"cpu_seconds": 0.0, "finished": False}
    if cost.exists():
        so_far = json.loads(cost.read_text(encoding="utf-8"))
    if not so_far["finished"]:
        began = time.process_time()
        try:
            cross_validate(
                planned.source(),
                planned.start(0),
                folder,
                folds=planned.folds or 0,
                repeats=planned.repeats,
                trials={kind: each.trial for kind, each in tuned.items()},
                resume=True,
            )
            so_far["finished"] = True
        finally:
            so_far["cpu_seconds"] += time.process_time() - began
            write_whole(cost, json.dumps(so_far).encode())
    return {BY_NAME[0]: so_far["cpu_seconds"]}


def _evaluated(plan: Plan, study: Study, folder: Path, physician: bool = False) -> list[Results]:
    """The run of each seed, under the conditions of the tables alone: the whole protocol has some eighty."""
    masks = _masks(estimated(study) if physician else study)
    return [
        evaluate_run(
            folder / f"seed-{seed}",
            study=study,
            physician=physician,
            masks=masks,
            replicates=plan.replicates,
        )
        for seed in plan.seeds
    ]


def _masks(study: Study) -> Masks:
    """Those that `evaluate` would draw."""
    test, names = study.patients["test"], study.task.modality_names
    presence = np.array([[patient.has(name) for name in names] for patient in test])
    masks = draw_masks([patient.id for patient in test], presence, names, rates=(0.0, HALF.rate))
    return replace(masks, keep={condition: masks.keep[condition] for condition in (COMPLETE, HALF)})


def plan_of(plan: Plan, study: StudyPlan) -> dict[str, Any]:
    """What was planned for one study, in JSON's types; without what earlier records do not have and it does
    not use."""
    shared = plan.model_dump(mode="json", exclude={"studies", "methods"})
    own = study.model_dump(mode="json")
    unused = [name for name, nothing in (("trials", None), ("variants", {})) if own[name] == nothing]
    return shared | {key: value for key, value in own.items() if key not in unused}


def read_lines(record: Path) -> list[Row]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def _write(record: Path, rows: Sequence[Row], about: Row) -> None:
    write_whole(record, "".join(json.dumps(row | about) + "\n" for row in rows).encode())


def made() -> dict[str, str]:
    """The commit, "-dirty" where code has changed since, and the day."""

    def git(*arguments: str) -> str:
        command, root = ["git", *arguments], Path(__file__).parents[2]
        return subprocess.run(command, capture_output=True, text=True, cwd=root).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!docs", ":!results")
    return {
        "commit": git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else ""),
        "date": date.today().isoformat(),
    }
