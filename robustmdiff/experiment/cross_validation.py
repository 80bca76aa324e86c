"""Repeated k-fold cross-validation by person: for data too small for one test set.

runs/name/
  folds.json              source, folds, repeats and configuration
  repeat-R/fold-K/        a run (`experiment.run`) whose test patients are the fold, with its baselines
  evaluation/             the folds' answers pooled (`evaluate_folds`)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.splits import grouped_folds, labels_of, load_split, split_patients
from robustmdiff.data.task import Task
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.references import estimated
from robustmdiff.experiment.run import FOLDS, SPLIT, load_run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import in_terms_of, load_patients, study_of
from robustmdiff.experiment.tuning import Trial
from robustmdiff.models import BASELINES, MODELS
from robustmdiff.training.config import TrainConfig, make_config, plain_config
from robustmdiff.whole import write_whole

CALIBRATION = 0.15  # of the people who are not tested


def cross_validate(
    source: Source,
    config: TrainConfig,
    folder: str | Path,
    *,
    folds: int = 5,
    repeats: int = 2,
    trials: Mapping[str, Trial] | None = None,
    resume: bool = False,
    bad: BadRows | None = None,
    device: str | None = None,
) -> list[Path]:
    """Train RobustMDiff and every baseline on each fold's other people; returns the folds' folders.

    trials  the settings of a method, by its kind, instead of those of `config`.

    With resume, finished models are left alone and an unfinished one goes on where it stopped. A
    repeat has a division of the people and a training seed of its own. `bad` notes the rows that cannot be
    read; `device` is that of `train_run`. Raises DataError.
    """
    if "test_sites" in source.options:
        sites = source.options["test_sites"]
        raise DataError(
            f"option test_sites is {sites!r}, expected none with folds, which test everybody once"
        )
    folder, trials = Path(folder), trials or {}
    plan = {
        "source": source.to_json(),
        "folds": folds,
        "repeats": repeats,
        "config": plain_config(config),
        "trials": {kind: trial._asdict() for kind, trial in trials.items()},
    }
    if (folder / FOLDS).exists():
        if not resume:
            raise DataError(f"{folder}: holds a cross-validation, expected a new folder, or --resume")
        found = _plan(folder)
        theirs = Source(**found["source"]), found["folds"], found["repeats"], make_config(found["config"])
        same_trials = found.get("trials", {}) == plan["trials"]  # earlier versions had none
        if theirs != (source, folds, repeats, config) or not same_trials:
            raise DataError(f"{folder / FOLDS}: is another plan, expected the same data, folds and config")
    patients, task = load_patients(source, bad=bad)
    divisions = divide(patients, folds, repeats, int(source.options.get("seed", 0)))
    write_whole(folder / FOLDS, json.dumps(plan, indent=1).encode())
    written = []
    for repeat, division in enumerate(divisions):
        settings = config.model_copy(update={"seed": config.seed + repeat})
        for fold, split in enumerate(division):
            study = study_of(source, patients, task, split)
            place = folder / f"repeat-{repeat}" / f"fold-{fold}"
            for where, kind, options in models_of(task):
                if not (place / where / "conformal.json").exists():
                    at, trial = place / where, trials.get(kind, Trial({}, {}))
                    how = trial.configure(settings), at
                    train_run(
                        study, *how, kind=kind, options=options | trial.options, resume=True, device=device
                    )
            written.append(place)
    return written


def divide(
    patients: Sequence[Patient], folds: int, repeats: int, seed: int
) -> Iterator[list[dict[str, tuple[str, ...]]]]:
    """For each repeat the splits of its folds: test is the fold, the other people are divided into
    train and calibration, everything stratified by label."""
    label = dict(zip((p.id for p in patients), labels_of(patients), strict=True))
    fractions = {"train": 1 - CALIBRATION, "calibration": CALIBRATION}
    for division in grouped_folds(patients, list(label.values()), folds=folds, repeats=repeats, seed=seed):
        splits = []
        for test in division:
            others = [patient for patient in patients if patient.id not in set(test)]
            rest = split_patients(others, fractions, seed, stratify=[label[p.id] for p in others])
            splits.append({**rest, "test": test})
        yield splits


def models_of(task: Task) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(place within the fold's folder, kind, options) of everything that is trained on a fold: of the
    baselines those that the task has something for."""
    yield "", "robustmdiff", {}
    for kind in BASELINES:
        if MODELS[kind].suits(task):
            yield f"baselines/{kind}", kind, {}
    for text in task.of_kind("text"):
        yield f"baselines/{text.name}_only", "single_modality", {"name": text.name}


def evaluate_folds(
    folder: str | Path,
    *,
    physician: bool = False,
    draws: int | None = None,
    replicates: int = 200,
    seed: int = 0,
    device: str = "cpu",
) -> Any:
    """Every fold's answers about its own test patients, pooled over folds and averaged over repeats
    -> Results; intervals resample people. `physician` as in `evaluate_run`."""
    import numpy as np

    from robustmdiff.evaluation.masks import draw_masks
    from robustmdiff.evaluation.pooling import over_repeats, pool

    folder = Path(folder)
    plan = _plan(folder)
    source = Source(**plan["source"])
    patients, task = load_patients(source)
    trained = load_run(folder / "repeat-0" / "fold-0").task  # task.json may have changed since
    patients, task = list(in_terms_of(trained, patients, task, str(source.root))), trained
    presence = np.array([[p.has(name) for name in task.modality_names] for p in patients])
    masks = draw_masks([p.id for p in patients], presence, task.modality_names, seed=seed)
    repeats = []
    for repeat in range(plan["repeats"]):
        results = []
        for fold in range(plan["folds"]):
            place = folder / f"repeat-{repeat}" / f"fold-{fold}"
            study = study_of(source, patients, task, load_split(place / SPLIT, patients))
            study = estimated(study) if physician else study
            own = masks.of([p.id for p in study.patients["test"]])
            options: dict[str, Any] = {"masks": own, "replicates": 0, "draws": draws, "seed": seed}
            results.append(evaluate_run(place, study=study, device=device, **options))
        repeats.append(pool(results, replicates=replicates, seed=seed))
    pooled = over_repeats(repeats)
    pooled.notes = (
        f"{plan['folds']}-fold cross-validation by person, repeated {plan['repeats']} times; "
        "answers out of fold are pooled, values averaged over the repeats.",
        "Intervals resample people with the trained models as they are: not how training varies.",
        *pooled.notes,
    )
    return pooled


def _plan(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / FOLDS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: holds no cross-validation ({error}), expected what --folds wrote"
        ) from error
