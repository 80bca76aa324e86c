"""Training of a diagnosis model: the loop of `robustmdiff.training` on masked patients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from robustmdiff.data.batch import Batch
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.fitted import FittedModel, fit_at_once
from robustmdiff.diagnosis.objective import DiagnosisObjective
from robustmdiff.diagnosis.validation import answer_note, choose_answer, validate
from robustmdiff.refusal import Refusal
from robustmdiff.training.batches import PackedPatients, check_patients
from robustmdiff.training.budget import Budget, budget
from robustmdiff.training.checkpoint import LAST
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.contract import Validation
from robustmdiff.training.counts import count, rare_notes
from robustmdiff.training.loop import Loop, TrainResult, claim, make_accelerator
from robustmdiff.training.notes import Note, write_notes
from robustmdiff.training.order import VALIDATION, random_key
from robustmdiff.training.plan import PatientPlan
from robustmdiff.training.selection import ENOUGH, choose_monitor

OF_STEPS = ("batch_size", "epochs", "steps", "monitor")  # topics of notes, none of a model fitted at once


def train(
    model: DiagnosisModel,
    patients_train: Sequence[Patient],
    patients_valid: Sequence[Patient],
    collator: Callable[[Sequence[Patient]], Batch],
    config: TrainConfig,
    out_dir: Path | str,
    resume: bool = False,
    name: str | None = None,
    device: torch.device | None = None,
    then: Callable[[DiagnosisModel], None] | None = None,
) -> TrainResult:
    """Train a `DiagnosisModel` and return it, where it was trained, with the weights that were chosen; a
    `FittedModel` is fitted to all that the steps would have shown.

    What `config` leaves open adapts to the number of patients; what was chosen, and what so few patients
    cannot show, is told and stands in `out_dir`/notes.json; so is which of its `answers` the model gives.
    patients_valid may be empty: then the last averaged weights are taken. With resume, goes on from
    `out_dir`/last.safetensors, or starts if there is none yet; without, a folder that holds one is refused.
    name is the model's in the log, its class if None. device is that of `make_accelerator`. then is called
    with the trained model before one of its answers is chosen: for a second stage. Raises Refusal
    (DataError, CheckpointError, TrainingError among them); Interrupted (code 130) after Ctrl-C, once the
    checkpoint is written. Seeds the global generators of torch, numpy and random. Under
    `torchrun --nproc-per-node 2` (or `accelerate launch` on GPUs) the processes share each batch and give
    the loss curve of one, unless a pretrained encoder drops attention weights (see `training.loop`).
    """
    if len(patients_train) == 0:
        raise Refusal("train: patients_train is empty, expected at least one patient")
    out_dir = Path(out_dir)
    claim(out_dir, resume)
    if not (out_dir / LAST).exists():
        model.prepare(patients_train, collator, config, out_dir / "prepared", resume, device)
    accelerator = make_accelerator(config, out_dir, device)
    quiet = not accelerator.is_main_process
    train_set = PackedPatients(patients_train, collator, config.cache_gb, quiet)
    valid_set = PackedPatients(patients_valid, collator, config.cache_gb, quiet)
    data = {"task": model.task.to_json(), "patients": check_patients(train_set, valid_set)}

    config, length, notes = _adapted(config, model.task.classes, train_set, valid_set)
    name = name or type(model).__name__

    def on_valid(measure: Callable[..., dict[str, float]]) -> dict[str, float]:
        key = random_key(config.seed, VALIDATION)
        size = length.batch_size
        return measure(model, accelerator, valid_set, config.valid_missing, batch_size=size, seed=key)

    chosen_by = None if config.monitor == "last" else config.monitor
    validated = count(valid_set.label, valid_set.label_known)
    validation = None
    if len(valid_set):
        measure = partial(on_valid, validate)
        validation = Validation(
            measure, chosen_by, chosen_by == "macro_auroc", str(validated), tie="log_loss"
        )
    if isinstance(model, FittedModel):
        return fit_at_once(
            model,
            PatientPlan(train_set, model.task, config, length, processes=1),
            config,
            out_dir,
            accelerator,
            name=name,
            data=data,
            validation=validation,
            notes=[note for note in notes if note.topic not in OF_STEPS],
        )
    plan = PatientPlan(train_set, model.task, config, length, accelerator.num_processes)
    if not (out_dir / LAST).exists():
        model.fit(train_set.sample())
        model.log_weight.copy_(plan.rare.log_weight)
    result = Loop(
        DiagnosisObjective(model, config),
        plan,
        config,
        out_dir,
        accelerator,
        name=name,
        data=data,
        validation=validation,
        notes=notes,
    ).run()
    if then is not None:
        then(model)
    if len(model.answers) > 1:
        enough = validated.patients >= ENOUGH
        note = answer_note(model, on_valid(choose_answer) if enough else {}, validated.patients)
        if not quiet:
            write_notes([*notes, note], out_dir)
            print(f"{name}: {note.sentence}", file=sys.stderr)
    return result


def _adapted(
    config: TrainConfig, classes: Sequence[str], train_set: PackedPatients, valid_set: PackedPatients
) -> tuple[TrainConfig, Budget, list[Note]]:
    """The configuration with what it leaves open filled in, how long that is, and what to say of it."""
    trained, validated = (count(held.label, held.label_known) for held in (train_set, valid_set))
    length = budget(len(train_set), config)
    monitor, chosen = choose_monitor(config.monitor if len(valid_set) else None, validated)
    filled = {"batch_size": length.batch_size, "epochs": length.epochs, "monitor": monitor}
    notes = [*rare_notes(classes, trained), *length.notes, *chosen]
    return config.model_copy(update=filled), length, notes
