"""A run and its baselines under the missing-modality protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robustmdiff.diagnosis.calibration import say_if_calibrated_otherwise
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.evaluation.protocol import evaluate
from robustmdiff.evaluation.results import Results
from robustmdiff.experiment.forecasts import score_forecasts
from robustmdiff.experiment.references import estimated, references
from robustmdiff.experiment.run import Run, load_run
from robustmdiff.experiment.studies import Study, study_in_terms_of
from robustmdiff.training.notes import read_notes


def evaluate_run(
    run: Run | str | Path,
    *,
    study: Study | None = None,
    physician: bool = False,
    draws: int | None = None,
    replicates: int = 200,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Results:
    """A run (or its folder) and the baselines beside it, each with the prediction sets that it is shipped
    with, under the missing-modality protocol, with the notes of their training.

    study      whose test patients are asked about; the run's own, unless given.
    physician  ask only about those whose physician stated an estimate, to show it beside the models.
    draws      per diagnosis; the run's own number, for which its sets were calibrated, unless given: then a
               warning says so.
    replicates resamples of people for the intervals.
    """
    run = run if isinstance(run, Run) else load_run(run, device)
    own = not physician and (study is None or study.source == run.source)
    study = run.study() if study is None else study_in_terms_of(run.task, study)
    study = estimated(study) if physician else study
    say_if_calibrated_otherwise(run.model, draws)
    others = sorted((run.folder / "baselines").glob("*/model"))
    runs = {type(run.model).__name__: run}
    runs |= {path.parent.name: load_run(path.parent, device) for path in others}
    results = evaluate(
        {name: each.model for name, each in runs.items()},
        study.patients["test"],
        run.collator,
        study.task,
        sets={name: each.conformal for name, each in runs.items()},
        references=references(study),
        weight=study.weight,
        mnar=study.mnar,
        draws=draws,
        replicates=replicates,
        **options,
    )
    if own and isinstance(run.model, RobustMDiff) and run.model.second_stage is not None:
        people = study.patients
        results.forecasts = score_forecasts(
            run.model, people["train"], people["test"], run.collator, replicates=replicates
        )
    results.notes = study.notes + _told_by_training({name: each.folder for name, each in runs.items()})
    return results


def _told_by_training(folders: Mapping[str, Path]) -> tuple[str, ...]:
    """The notes of the models' folders, each once, with the names of those that it is of."""
    told: dict[str, list[str]] = {}
    for name, folder in folders.items():
        for note in read_notes(folder):
            told.setdefault(note.sentence, []).append(name)
    return tuple(f"Training of {', '.join(names)}: {sentence}" for sentence, names in told.items())
