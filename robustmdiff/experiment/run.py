"""A run: a model trained on a study, calibrated, and kept so that it can be used again.

runs/name/
  study.json          where the patients come from
  split.json          which records trained, calibrated, were tested
  people.json         the persons whose records trained and calibrated
  config.yaml         every hyper-parameter (the trainer's, with metrics.jsonl and checkpoints)
  model/              the trained model (`diagnosis.pretrained`)
  conformal.json, abstention.json
  baselines/NAME/     the same files for each baseline
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.splits import load_split
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.calibration import Calibration
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import Study, load_study, study_in_terms_of
from robustmdiff.models import load_model
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical
from robustmdiff.training.checkpoint import LAST

SPLIT, PEOPLE, FOLDS = "split.json", "people.json", "folds.json"
# What decides a run's answers: `cat` of those that are there, in this order, and `sha256sum` give `digest`.
DECIDING = ("model/model.safetensors", "model/forecast.safetensors", "conformal.json", "abstention.json")


@dataclass(frozen=True)
class Run:
    """A trained model with what is needed to use it."""

    folder: Path
    source: Source
    model: DiagnosisModel
    collator: Collator
    conformal: ConformalSets
    abstention: Abstention | None

    @property
    def task(self) -> Task:
        return self.model.task

    def study(self) -> Study:
        """The patients again, split and read as they were when this run was trained."""
        return study_in_terms_of(self.task, load_study(self.source, self.folder / SPLIT))

    def people(self) -> set[str]:
        """Who took part in training and calibration, as names are compared: the records, and the persons
        whose they are (which runs of earlier versions have not noted)."""
        split = load_split(self.folder / SPLIT)
        if (self.folder / PEOPLE).exists():
            split = {"people": load_split(self.folder / PEOPLE)["people"]} | split
        return {canonical(id) for name, ids in split.items() if name != "test" for id in ids}


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """A trained run, its model on `device`. Raises DataError or PretrainedError for a folder that holds no
    finished run, Refusal for a device that cannot be used."""
    folder, place = Path(folder), usable(device)
    if (folder / FOLDS).exists():
        raise DataError(
            f"{folder}: holds the folds of a cross-validation, expected one, such as repeat-0/fold-0"
        )
    source = read_source(folder)
    if (folder / LAST).exists() and not (folder / "conformal.json").exists():
        raise DataError(
            f"{folder}: holds a run that is not finished, expected `robustmdiff train --resume` to end it"
        )
    model, tokenizer = load_model(folder / "model")
    calibration = Calibration.load(folder)
    return Run(
        folder=folder,
        source=source,
        model=model.to(place),
        collator=Collator(model.task, tokenizer, model.config.max_tokens),
        conformal=calibration.sets,
        abstention=calibration.abstention,
    )


def digest(folder: Path) -> str:
    """SHA-256 of the files of a run that decide its answers."""
    found = hashlib.sha256()
    for name in DECIDING:
        if (folder / name).exists():
            found.update((folder / name).read_bytes())
    return found.hexdigest()


def usable(device: torch.device | str) -> torch.device:
    """The device of that name; Refusal where it is none, or not there."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).strip().split("\n")[0].rstrip(".")
        raise Refusal(
            f"device is {str(device)!r}, which cannot be used ({problem}), expected cpu or one that is here"
        ) from error
    return place


def read_source(folder: Path) -> Source:
    try:
        return Source(**json.loads((folder / "study.json").read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(
            f"{folder}: holds no run, expected a folder that `robustmdiff train` wrote"
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{folder / 'study.json'}: cannot be read ({error}), expected what `robustmdiff train` wrote"
        ) from error
