"""From a study to a run: train a model, calibrate it, save everything; and its baselines beside it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustmdiff.alignment.pretrained import load_aligned, load_prompts
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.splits import hold_out, save_split
from robustmdiff.data.study import texts_of
from robustmdiff.data.tokenizer import SPECIAL, train_tokenizer
from robustmdiff.diagnosis.calibration import calibrate
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.latents import fit_second_stage
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.pretrained import save_pretrained
from robustmdiff.diagnosis.train import train
from robustmdiff.encoders.backbone import load_own_tokenizer, text_backbone
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.experiment.run import PEOPLE, SPLIT, Run, load_run, read_source, usable
from robustmdiff.experiment.studies import SPLITS, Study
from robustmdiff.models import MODELS
from robustmdiff.training.checkpoint import LAST
from robustmdiff.training.config import TrainConfig
from robustmdiff.whole import write_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def train_with_baselines(
    study: Study,
    config: TrainConfig,
    folder: str | Path,
    *,
    kind: str = "robustmdiff",
    baselines: Iterable[str] = (),
    aligned: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
) -> dict[str, Run]:
    """A run, and beside it (baselines/NAME) each of these baselines with the same study and budget; a warning
    names those that the task has nothing for."""
    folder = Path(folder)
    how: dict[str, Any] = {"aligned": aligned, "resume": resume, "device": device}
    runs = {kind: train_run(study, config, folder, kind=kind, **how)}
    for name in baselines:
        if not MODELS[name].suits(study.task):
            warnings.warn(f"{name} is left out: the task has no {MODELS[name].reads}", stacklevel=2)
            continue
        runs[name] = train_run(study, config, folder / "baselines" / name, kind=name, **how)
    return runs


def train_run(
    study: Study,
    config: TrainConfig,
    folder: str | Path,
    *,
    kind: str = "robustmdiff",
    options: dict[str, Any] | None = None,
    aligned: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
) -> Run:
    """Train one kind of model on a study's training patients, what it forecasts in a second stage, calibrate
    it on the calibration patients, and save everything. Resumes exactly where it stopped; an unfinished
    second stage starts again.

    aligned  a folder of aligned encoders (`alignment.pretrained`) of the same sizes: those of the model start
             from them, and texts are read with their tokenizer. They should not have met the test patients.
    device   where to train and calibrate: the accelerator of this machine if None, else the CPU.
    """
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
    model, collator, config = build_model(study, config, kind, options or {}, aligned)
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
    study: Study,
    config: TrainConfig,
    kind: str,
    options: Mapping[str, Any],
    aligned: str | Path | None = None,
) -> tuple[DiagnosisModel, Collator, TrainConfig]:
    """An untrained model for a study, from the seed of `config`, its encoders aligned where a folder of them
    is named; what collates for it; and `config` with the sizes of a model that goes with its texts."""
    prompts, tokenizer = (None, None) if aligned is None else load_prompts(aligned)
    if tokenizer is None:
        tokenizer, sizes = tokenizer_of(study, config.model)
    else:
        sizes = replace(config.model, vocabulary=tokenizer.get_vocab_size())
    config = config.model_copy(update={"model": sizes})
    torch.manual_seed(config.seed)
    model = MODELS[kind].build(
        study.task, config.model, concepts=study.concepts, tokenizer=tokenizer, **options
    )
    if prompts is not None and model.encoders is not None:
        load_aligned(model.encoders, prompts)
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


def tokenizer_of(study: Study, config: ModelConfig) -> tuple[Tokenizer | None, ModelConfig]:
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
