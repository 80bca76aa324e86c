"""The loop, on Hugging Face Accelerate: one step at a time, resumable to the bit, whatever it trains.

Everything random is a pure function of (seed, epoch, step, row): the order of patients, the masks of a
global batch, noise and dropout. So a checkpoint holds weights and a step number, no generator states; a
killed run that resumes, and a run on two processes, see the same as one that never stopped. What an
encoder of somebody else's draws by other means than an nn.Dropout of [rows, ...] (on attention weights,
say) is a function of (seed, step, process): it resumes exactly, but two processes draw it otherwise than
one.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Mapping, Sequence
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

from robustmdiff.nn.dropout import give_to_patients, of_batch
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
from robustmdiff.training.config import LoopConfig, dump_config, plain_config
from robustmdiff.training.contract import Objective, Plan, Validation
from robustmdiff.training.ema import WeightAverage
from robustmdiff.training.interrupt import Interrupt, Interrupted
from robustmdiff.training.log import Log
from robustmdiff.training.notes import Note, write_notes
from robustmdiff.training.optimizer import adamw, load_optimizer_tensors, optimizer_tensors, warmup_cosine
from robustmdiff.training.order import NOISE, random_key
from robustmdiff.whole import write_whole

PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class TrainResult:
    """model     the one given, in evaluation mode, with the chosen averaged weights, on the device it was
              trained on
    out_dir   holds config.yaml, notes.json, metrics.jsonl, tensorboard/, last.safetensors,
              best.safetensors
    steps     optimiser steps in all
    best_step, metrics  the step whose weights these are, and what validation gave there (empty without)"""

    model: nn.Module
    out_dir: Path
    steps: int
    best_step: int
    metrics: dict[str, float]


def claim(out_dir: Path, resume: bool) -> None:
    """Makes the folder of a run. CheckpointError where it holds one that shall not be resumed."""
    out_dir.mkdir(parents=True, exist_ok=True)
    if (out_dir / LAST).exists() and not resume:
        raise CheckpointError(f"{out_dir / LAST} exists: resume that run, or train into another folder")


def make_accelerator(config: LoopConfig, out_dir: Path, device: torch.device | None = None) -> Accelerator:
    """The processes and the device of a run, in the precision of `config`.

    device  None: the accelerator of this machine, the CPU where there is none. Of several processes each
            has an accelerator of its own, whichever is named.
    """
    # An earlier run of this process may have had another precision and another device.
    AcceleratorState._reset_state(reset_partial_state=True)
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type != "cpu" and device.index is not None:
        torch.accelerator.set_device_index(device.index)
    return Accelerator(
        cpu=device.type == "cpu",  # said, or torchrun's processes would not find each other
        mixed_precision=PRECISION[config.precision],
        log_with="tensorboard",
        project_dir=out_dir,
        # Absent modalities leave parameters without gradient, on some processes or on all.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def introduce(name: str, config: LoopConfig, out_dir: Path, notes: Sequence[Note], *, started: bool) -> None:
    """Writes down what a run is, and says what a reader has to know, unless it had started before."""
    for partial in out_dir.glob("*.partial"):  # a checkpoint that a killed process was writing
        partial.unlink()
    write_whole(out_dir / "config.yaml", dump_config(config).encode())
    write_notes(notes, out_dir)
    for note in () if started else notes:
        print(f"{name}: {note.sentence}", file=sys.stderr)


def told(metrics: Mapping[str, float]) -> str:
    """In a line of the log; means alone."""
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if "@" not in name)


class Loop:
    """Trains `objective.model` on a plan's batches; `step` counts the optimiser steps done.

    config      epochs and batch_size are the plan's business: the loop only stores them
    validation  None: the last averaged weights are taken
    name        of the model, for the log
    data        what the data are, in JSON's types by name: stored, and compared when a run is resumed
    notes       what a reader has to know; told and written to notes.json

    Goes on from `out_dir`/last.safetensors where there is one (see `claim`). Turns every nn.Dropout of
    the model into one that belongs to the row, and seeds the global generators of torch, numpy and
    random. `run` raises TrainingError, CheckpointError, and Interrupted (exit code 130) after Ctrl-C,
    once the checkpoint is written.
    """

    def __init__(
        self,
        objective: Objective,
        plan: Plan,
        config: LoopConfig,
        out_dir: Path,
        accelerator: Accelerator,
        *,
        name: str,
        data: Mapping[str, Any],
        validation: Validation | None = None,
        notes: Sequence[Note] = (),
    ) -> None:
        self.objective, self.model, self.plan, self.config = objective, objective.model, plan, config
        self.out_dir, self.accelerator, self.name = out_dir, accelerator, name
        self.data, self.validation = json.loads(json.dumps(data)), validation
        self.main, self.world = accelerator.is_main_process, accelerator.num_processes
        self.step, self.best_step = 0, 0
        self.metrics: dict[str, float] = {}
        give_to_patients(self.model)
        checkpoint = load_checkpoint(out_dir / LAST) if (out_dir / LAST).exists() else None
        if checkpoint is not None:
            check_same_run(checkpoint, config, self.data)
            load_weights(self.model, _under("model.", checkpoint.tensors), checkpoint.path)
        self.forward, self.optimizer = accelerator.prepare(
            objective, adamw(self.model, config.learning_rate, config.weight_decay)
        )
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.average = WeightAverage(self.model, config.ema_decay)
        if checkpoint is not None:
            self._restore(checkpoint)
        if self.main:
            introduce(name, config, out_dir, notes, started=self.step > 0)
        self.log = Log(accelerator, out_dir, self.step)

    def run(self) -> TrainResult:
        c, plan = self.config, self.plan
        bar = tqdm(
            total=plan.steps,
            initial=self.step,
            unit="step",
            desc=f"training {self.name}",
            disable=None if self.main else True,
        )
        self.model.train()
        with Interrupt() as interrupt, bar:
            while self.step < plan.steps:
                stop = self._step(interrupt)
                bar.update()
                if self.step % c.log_every == 0:
                    means = self.log.flush().items()
                    bar.set_postfix({k: f"{v:.3g}" for k, v in means if "/" not in k}, refresh=False)
                at_end = self.step % plan.epoch_steps == 0
                if at_end and (self.epoch % c.valid_every == 0 or self.step == plan.steps):
                    self._validate(bar)
                due = self.step % (c.save_every or plan.epoch_steps) == 0
                if due or stop or self.step == plan.steps:
                    self._save()
                if stop and self.step < plan.steps:
                    self._leave(stop)
        if self.best_step == 0 and self.main:  # nothing chose
            self._save_best()
        self.log.close()
        self.accelerator.wait_for_everyone()
        best = load_checkpoint(self.out_dir / BEST)
        load_weights(self.model, best.weights, best.path)
        self.model.eval()
        return TrainResult(self.model, self.out_dir, plan.steps, best.step, best.metrics)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.plan.epoch_steps

    def _step(self, interrupt: Interrupt) -> int:
        """One optimiser step; returns the signal that any process was sent, 0 if none."""
        c, device = self.config, self.accelerator.device
        drawn = self._seed()
        self.objective.before_step(drawn)
        lr = c.learning_rate * warmup_cosine(self.step, self.plan.steps, c.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        looking = (self.step + 1) % c.log_every == 0
        names, logged = [], torch.zeros((), device=device)  # becomes each term, the loss, squares of norms
        for i, part in enumerate(self.plan.parts(self.step, self.accelerator.process_index, device)):
            last = i + 1 == c.accumulate
            with nullcontext() if last else self.accelerator.no_sync(self.forward):
                with of_batch(drawn, part.ids):
                    loss, terms = self.forward(*part.inputs)
                    norms = self.objective.norms() if looking else {}
                # Each loss is a mean over the rows of a part; DDP divides by the processes.
                self.accelerator.backward(loss * part.share * self.world)
            names, looked_at = [*terms, "loss"], [*norms]
            shares = part.share * torch.stack([*terms.values(), loss, *norms.values()]).detach().float()
            logged = logged + torch.cat([shares[: len(names)], shares[len(names) :].square()])
        norm = self.accelerator.clip_grad_norm_(self.trained, c.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step()
        self.average.update(self.step)
        self.step += 1

        stop = interrupt.signal
        if self.world > 1:  # all stop at the same step
            logged = self.accelerator.reduce(torch.cat([logged, logged.new_tensor([stop])]), "sum")
            logged, sent = logged[:-1], logged[-1]
            if sent > 0:
                stop = stop or signal.SIGTERM
        row = {"step": self.step, "epoch": (self.step - 1) // self.plan.epoch_steps, "lr": lr}
        losses, squares = logged[: len(names)], logged[len(names) :]
        values = torch.cat([losses, squares.sqrt(), norm.detach().reshape(1).to(logged)])
        self.log.step(row, [*names, *looked_at, "grad_norm"], values)
        return stop

    def _seed(self) -> int:
        """The number that dropout and a model's own noise draw by, beside the row: the same on any number
        of processes. What else draws depends on the process, too."""
        own = random_key(self.config.seed, NOISE, self.step, self.accelerator.process_index)
        if self.accelerator.device.type == "cpu":
            torch.default_generator.manual_seed(own)
        else:
            torch.manual_seed(own)  # of every device, which takes longer
        np.random.seed(own)
        random.seed(own)
        return random_key(self.config.seed, NOISE, self.step)

    def _validate(self, bar: tqdm) -> None:
        if self.validation is None:
            return
        self.log.flush()  # which stops at a loss that is not finite
        with self.average.applied():
            metrics = self.validation.measure()
        self.log.valid({"step": self.step, "epoch": self.epoch - 1}, metrics)
        if self.main:
            epochs = self.plan.steps // self.plan.epoch_steps
            where = f"{self.name}, epoch {self.epoch} of {epochs}, {self.validation.of}"
            bar.write(f"{where}: {told(metrics)}", file=sys.stderr)
        if self.validation.better(metrics, self.metrics):
            self.best_step, self.metrics = self.step, metrics
            if self.main:
                self._save_best()
        elif self.validation.monitor is None:
            self.metrics = metrics

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
        return self.data | {
            "step": self.step,
            "best_step": self.best_step,
            "metrics": self.metrics,
            "config": plain_config(self.config),
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
