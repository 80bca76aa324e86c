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
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.spelling import canonical
from robustmdiff.data.splits import hold_out, load_split, save_split
from robustmdiff.data.study import texts_of
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import SPECIAL, train_tokenizer
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.calibration import Calibration, calibrate, say_if_calibrated_otherwise
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.pretrained import save_pretrained
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.encoders.backbone import load_own_tokenizer, text_backbone
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.experiment.references import estimated, references
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import SPLITS, Study, load_study, study_in_terms_of
from robustmdiff.models import MODELS, load_model
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import LAST
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.notes import read_notes
from robustmdiff.whole import write_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from robustmdiff.evaluation.results import Results

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


def train_run(
    study: Study,
    config: TrainConfig,
    folder: str | Path,
    *,
    kind: str = "robustmdiff",
    options: dict[str, Any] | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
) -> Run:
    """Train one kind of model on a study's training patients, what it forecasts in a second stage, calibrate
    it on the calibration patients, and save everything. Resumes exactly where it stopped; an unfinished
    second stage starts again.

    device  where to train and calibrate: the accelerator of this machine if None, else the CPU.
    """
    from robustmdiff.diagnosis.model import RobustMDiff
    from robustmdiff.diagnosis.second_stage import fit_second_stage
    from robustmdiff.diagnosis.train import train

    place = None if device is None else usable(device)
    if kind not in MODELS:
        raise DataError(f"model is {kind!r}, expected one of {', '.join(MODELS)}")
    for name in ("train", "calibration"):
        if len(study.patients[name]) == 0:
            raise DataError(f"no patient is left for {name} of those in the split, expected more patients")
    if not any(p.labels.get(name) for p in study.patients["calibration"] for name in study.task.classes):
        raise DataError(
            "no class is known to hold for any calibration patient, expected some whose labels are known"
        )
    folder = Path(folder)
    _claim(folder, study, resume)
    if kind == "robustmdiff":
        options = {"denoiser": config.lambda_diff > 0, **(options or {})}
    model, collator, config = build_model(study, config, kind, options or {})
    # Validation picks the best weights by patients of the training split, calibration stays untouched.
    fitting, watching = hold_out(study.patients["train"], config.seed)

    def then(model: DiagnosisModel) -> None:
        if isinstance(model, RobustMDiff) and config.forecast != "none":
            how = collator, config.forecast, config.seed, folder / "model"
            fit_second_stage(model, fitting, watching, *how)

    train(model, fitting, watching, collator, config, folder, resume, name=kind, device=place, then=then)
    calibration = calibrate(
        model, study.patients["calibration"], study.patients["train"], collator, study.calibration_weight
    )
    save_pretrained(model, folder / "model", kind=kind, tokenizer=collator.tokenizer, options=options)
    calibration.save(folder)
    return load_run(folder)


def build_model(
    study: Study, config: TrainConfig, kind: str, options: Mapping[str, Any]
) -> tuple[DiagnosisModel, Collator, TrainConfig]:
    """An untrained model for a study, from the seed of `config`; what collates for it; and `config` with the
    sizes of a model that goes with the study's texts."""
    tokenizer, sizes = _tokenizer(study, config.model)
    config = config.model_copy(update={"model": sizes})
    torch.manual_seed(config.seed)
    model = MODELS[kind].build(
        study.task, config.model, concepts=study.concepts, tokenizer=tokenizer, **options
    )
    return model, Collator(study.task, tokenizer, config.model.max_tokens), config


def _claim(folder: Path, study: Study, resume: bool) -> None:
    """Note in a new run's folder who is studied; a run that is there must be resumed, with the same."""
    source = json.loads(json.dumps(study.source.to_json()))
    if (folder / LAST).exists():
        if not resume:
            raise DataError(f"{folder}: holds a run, expected a new folder, or --resume to go on with it")
        before = read_source(folder).to_json()
        for name, value in source.items():
            if before[name] != value:
                raise DataError(
                    f"{folder}: is a run on other data: {name} is {before[name]!r} there and {value!r} now"
                )
        return
    write_whole(folder / "study.json", json.dumps(source, indent=1).encode())
    save_split(folder / SPLIT, {name: [p.id for p in study.patients[name]] for name in SPLITS})
    people = {p.person for name in ("train", "calibration") for p in study.patients[name]}
    save_split(folder / PEOPLE, {"people": sorted(people)})


def _tokenizer(study: Study, config: ModelConfig) -> tuple[Tokenizer | None, ModelConfig]:
    """The tokenizer of the texts (their pretrained model's own, else one trained on the training
    patients' texts; None where there are no texts), and the sizes of a model that goes with it."""
    if not study.task.of_kind("text"):
        return None, config
    pretrained = text_backbone(study.task)
    if pretrained is not None:
        tokenizer, entries, longest = load_own_tokenizer(pretrained)
        if config.vocabulary not in (0, entries):
            raise DataError(
                f"model.vocabulary is {config.vocabulary}, expected {entries}, as the tokenizer of "
                f"{pretrained.encoder!r} has, or 0"
            )
        return tokenizer, replace(config, vocabulary=entries, max_tokens=min(config.max_tokens, longest))
    if config.vocabulary and config.vocabulary <= len(SPECIAL):
        raise DataError(
            f"model.vocabulary is {config.vocabulary}, expected more than {len(SPECIAL)}, or 0: as many as "
            "the texts need"
        )
    texts = texts_of(study.patients["train"], study.task) or [""]
    tokenizer = train_tokenizer(texts, config.vocabulary or None)
    return tokenizer, replace(config, vocabulary=tokenizer.get_vocab_size())


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
    from robustmdiff.diagnosis.model import RobustMDiff
    from robustmdiff.evaluation.protocol import evaluate
    from robustmdiff.experiment.forecasts import score_forecasts

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


def train_with_baselines(
    study: Study,
    config: TrainConfig,
    folder: str | Path,
    *,
    kind: str = "robustmdiff",
    baselines: Iterable[str] = (),
    resume: bool = False,
    device: torch.device | str | None = None,
) -> dict[str, Run]:
    """A run, and beside it (baselines/NAME) each of these baselines with the same study and budget; a warning
    names those that the task has nothing for."""
    folder = Path(folder)
    how: dict[str, Any] = {"resume": resume, "device": device}
    runs = {kind: train_run(study, config, folder, kind=kind, **how)}
    for name in baselines:
        if not MODELS[name].suits(study.task):
            warnings.warn(f"{name} is left out: the task has no {MODELS[name].reads}", stacklevel=2)
            continue
        runs[name] = train_run(study, config, folder / "baselines" / name, kind=name, **how)
    return runs
