"""The trainer, on Hugging Face Accelerate: one step at a time, resumable to the bit.

Everything random is a pure function of (seed, epoch, step, patient): the order of patients, the
masks of a global batch, noise and dropout. So a checkpoint holds weights and a step number, no
generator states; a killed run that resumes, and a run on two processes, see the same as one that
never stopped. What an encoder of somebody else's draws by other means than an nn.Dropout of
[patients, ...] (on attention weights, say) is a function of (seed, step, process): it resumes exactly,
but two processes draw it otherwise than one.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm import tqdm

from robustmdiff.data.batch import Batch
from robustmdiff.data.patient import Patient
from robustmdiff.encoders.tensors import tensors
from robustmdiff.nn.dropout import give_to_patients, of_batch
from robustmdiff.refusal import Refusal
from robustmdiff.training.batches import PackedPatients, check_patients
from robustmdiff.training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    CheckpointError,
    check_same_run,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from robustmdiff.training.config import TrainConfig, dump_config, plain_config
from robustmdiff.training.ema import WeightAverage
from robustmdiff.training.interrupt import Interrupt, Interrupted
from robustmdiff.training.log import Log
from robustmdiff.training.objective import LOSSES, Objective
from robustmdiff.training.optimizer import adamw, load_optimizer_tensors, optimizer_tensors, warmup_cosine
from robustmdiff.training.plan import NOISE, VALIDATION, Plan, random_key
from robustmdiff.training.validation import validate

PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class TrainResult:
    """model     the one given, with the best averaged weights
    out_dir   holds config.yaml, metrics.jsonl, tensorboard/, last.safetensors, best.safetensors
    steps     optimiser steps in all
    best_step, metrics  when validation was best, and what it gave (empty without validation)"""

    model: nn.Module
    out_dir: Path
    steps: int
    best_step: int
    metrics: dict[str, float]


def train(
    model: Any,
    patients_train: Sequence[Patient],
    patients_valid: Sequence[Patient],
    collator: Callable[[Sequence[Patient]], Batch],
    config: TrainConfig,
    out_dir: Path | str,
    resume: bool = False,
) -> TrainResult:
    """Train a `DiagnosisModel` and return it with the weights that validated best.

    patients_valid may be empty: then the last averaged weights are the best. With resume, goes on
    from `out_dir`/last.safetensors, or starts if there is none yet; without, a folder that holds
    one is refused. Raises DataError, CheckpointError, TrainingError, ValueError; Interrupted
    (exit code 130) after Ctrl-C, once the checkpoint is written. Seeds the global generators of
    torch, numpy and random. Under `torchrun --nproc-per-node 2` (or `accelerate launch` on GPUs) the
    processes share each batch and give the loss curve of one, unless a pretrained encoder drops attention
    weights (see the module).
    """
    return Trainer(model, patients_train, patients_valid, collator, config, Path(out_dir), resume).run()


class Trainer:
    """See `train`. `step` counts the optimiser steps done."""

    def __init__(
        self,
        model: Any,
        patients_train: Sequence[Patient],
        patients_valid: Sequence[Patient],
        collator: Callable[[Sequence[Patient]], Batch],
        config: TrainConfig,
        out_dir: Path,
        resume: bool,
    ) -> None:
        if len(patients_train) == 0:
            raise Refusal("train: patients_train is empty, expected at least one patient")
        out_dir.mkdir(parents=True, exist_ok=True)
        if (out_dir / LAST).exists() and not resume:
            raise CheckpointError(f"{out_dir / LAST} exists: resume that run, or train into another folder")
        self.model, self.config, self.out_dir = model, config, out_dir
        AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else torchrun's processes would not find each other
            mixed_precision=PRECISION[config.precision],
            log_with="tensorboard",
            project_dir=out_dir,
            # Absent modalities leave parameters without gradient, on some processes or on all.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.main, self.world = self.accelerator.is_main_process, self.accelerator.num_processes

        self.train_set = PackedPatients(patients_train, collator, config.cache_gb, quiet=not self.main)
        self.valid_set = PackedPatients(patients_valid, collator, config.cache_gb, quiet=not self.main)
        self.patients = check_patients(self.train_set, self.valid_set)
        if config.monitor == "macro_auroc" and len(self.valid_set) and not self.valid_set.has_contrast():
            raise Refusal(
                "train: patients_valid has no class with both kinds of patients, so there is no macro_auroc; "
                "expected more patients, or monitor: log_loss"
            )
        if config.monitor == "log_loss" and len(self.valid_set) and not self.valid_set.has_truth():
            raise Refusal(
                "train: no class is known to hold for any of patients_valid, so there is no log_loss; "
                "expected patients whose labels are known"
            )
        self.plan = Plan(self.train_set, model.task, config, self.world)
        give_to_patients(model)
        self.step, self.best_step = 0, 0
        self.metrics: dict[str, float] = {}
        checkpoint = load_checkpoint(out_dir / LAST) if (out_dir / LAST).exists() else None
        if checkpoint is None:
            model.fit(self.train_set.sample())
        else:
            check_same_run(checkpoint, config, model.task, self.patients)
            load_weights(model, _under("model.", checkpoint.tensors), checkpoint.path)
        self.objective, self.optimizer = self.accelerator.prepare(
            Objective(model, config), adamw(model, config.learning_rate, config.weight_decay)
        )
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.average = WeightAverage(model, config.ema_decay)
        if checkpoint is not None:
            self._restore(checkpoint)
        if self.main:
            (out_dir / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        self.log = Log(self.accelerator, out_dir, self.step)

    def run(self) -> TrainResult:
        c, started = self.config, self.step
        bar = tqdm(total=self.plan.steps, initial=started, unit="step", disable=None if self.main else True)
        self.model.train()
        with Interrupt() as interrupt, bar:
            while self.step < self.plan.steps:
                stop = self._step(interrupt)
                bar.update()
                if self.step % c.log_every == 0:
                    bar.set_postfix({k: f"{v:.3g}" for k, v in self.log.flush().items()}, refresh=False)
                at_end = self.step % self.plan.epoch_steps == 0
                if at_end and (self.epoch % c.valid_every == 0 or self.step == self.plan.steps):
                    self._validate(bar)
                due = self.step % (c.save_every or self.plan.epoch_steps) == 0
                if due or stop or self.step == self.plan.steps:
                    self._save()
                if stop and self.step < self.plan.steps:
                    self._leave(stop)
        if self.best_step == 0 and self.main:  # nothing was validated
            self._save_best()
        self.log.close()
        self.accelerator.wait_for_everyone()
        best = load_checkpoint(self.out_dir / BEST)
        load_weights(self.model, best.weights, best.path)
        self.model.eval()
        return TrainResult(self.model, self.out_dir, self.plan.steps, best.step, best.metrics)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.plan.epoch_steps

    def _step(self, interrupt: Interrupt) -> int:
        """One optimiser step; returns the signal that any process was sent, 0 if none."""
        c, device = self.config, self.accelerator.device
        drawn = self._seed()
        lr = c.learning_rate * warmup_cosine(self.step, self.plan.steps, c.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        logged = torch.zeros(len(LOSSES) + 2, device=device)  # terms, sum, signal
        for i, part in enumerate(self.plan.parts(self.step, self.accelerator.process_index)):
            last = i + 1 == c.accumulate
            with nullcontext() if last else self.accelerator.no_sync(self.objective):
                with of_batch(drawn, part.batch.ids):
                    loss, terms = self.objective(
                        tensors(part.batch, device), part.kept.to(device), part.weight.to(device)
                    )
                # Each loss is a mean over the patients of a part; DDP divides by the processes.
                self.accelerator.backward(loss * part.share * self.world)
            logged[:-1] += part.share * terms
        norm = self.accelerator.clip_grad_norm_(self.trained, c.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.after_step()
        self.average.update(self.step)
        self.step += 1

        stop = interrupt.signal
        if self.world > 1:  # all stop at the same step
            logged[-1] = stop
            logged = self.accelerator.reduce(logged, "sum")
            if logged[-1] > 0:
                stop = stop or signal.SIGTERM
        row = {"step": self.step, "epoch": (self.step - 1) // self.plan.epoch_steps, "lr": lr}
        values = torch.cat([logged[:-1], norm.detach().reshape(1).to(logged)])
        self.log.step(row, [*LOSSES, "loss", "grad_norm"], values)
        return stop

    def _seed(self) -> int:
        """The number that dropout and a model's own noise (in its buffer `step`) draw by, beside the
        patient: the same on any number of processes. What else draws depends on the process, too."""
        own = random_key(self.config.seed, NOISE, self.step, self.accelerator.process_index)
        if self.accelerator.device.type == "cpu":
            torch.default_generator.manual_seed(own)
        else:
            torch.manual_seed(own)  # of every device, which takes longer
        np.random.seed(own)
        random.seed(own)
        drawn = random_key(self.config.seed, NOISE, self.step)
        if hasattr(self.model, "step"):
            self.model.step.fill_(drawn)
        return drawn

    def _validate(self, bar: tqdm) -> None:
        if len(self.valid_set) == 0:
            return
        c = self.config
        self.log.flush()  # which stops at a loss that is not finite
        with self.average.applied():
            metrics = validate(
                self.model,
                self.accelerator,
                self.valid_set,
                c.valid_missing,
                batch_size=c.batch_size,
                draws=c.model.draws,
                seed=random_key(c.seed, VALIDATION),
            )
        self.log.valid({"step": self.step, "epoch": self.epoch - 1}, metrics)
        if self.main:
            told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if "@" not in name)
            bar.write(f"epoch {self.epoch} of {c.epochs}: {told}", file=sys.stderr)
        if not self.best_step or _better(c.monitor, metrics, self.metrics):
            self.best_step, self.metrics = self.step, metrics
            if self.main:
                self._save_best()

    def _save_best(self) -> None:
        tensors = self.model.state_dict() | self.average.weights
        save_checkpoint(self.out_dir / BEST, {f"model.{k}": v for k, v in tensors.items()}, self._state())

    def _save(self) -> None:
        self.log.flush()  # likewise: what is saved is sound
        if self.main:
            tensors = (
                {f"model.{k}": v for k, v in self.model.state_dict().items()}
                | {f"ema.{k}": v for k, v in self.average.weights.items()}
                | {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer, self.model).items()}
            )
            save_checkpoint(self.out_dir / LAST, tensors, self._state())

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "best_step": self.best_step,
            "metrics": self.metrics,
            "config": plain_config(self.config),
            "task": self.model.task.to_json(),
            "patients": self.patients,
            "scaler": scaler.state_dict() if scaler else None,
        }

    def _restore(self, checkpoint: Checkpoint) -> None:
        state, tensors = checkpoint.state, checkpoint.tensors
        self.step, self.best_step, self.metrics = state["step"], state["best_step"], state["metrics"]
        load_optimizer_tensors(self.optimizer, self.model, _under("optimizer.", tensors))
        for name, value in _under("ema.", tensors).items():
            self.average.weights[name].copy_(value)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _leave(self, number: int) -> None:
        self.log.close()
        if self.main:
            print(
                f"stopped after step {self.step} of {self.plan.steps}, saved in {self.out_dir / LAST}; "
                "to go on, run the same command with --resume (in Python: train(..., resume=True))",
                file=sys.stderr,
            )
        raise Interrupted(128 + number)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _better(monitor: str, new: dict[str, float], old: dict[str, float]) -> bool:
    return new[monitor] > old[monitor] if monitor == "macro_auroc" else new[monitor] < old[monitor]
