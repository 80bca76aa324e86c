"""A diagnosis model of one linear layer per modality, its patients, and a run that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import time
import zlib
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch
from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.diagnosis.train import train
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.training.config import TrainConfig

TASK = Task(
    modalities=(
        Modality("xray", "image", shape=(1, 4, 3)),
        Modality("labs", "values", fields=(Field("crp"), Field("wbc"))),
        Modality("genes", "values", fields=(Field("snp", categories=("aa", "ab", "bb")),)),
    ),
    classes=("none", "flu", "tb"),
    prevalence=(0.6, 0.3, 0.1),
    rare=("tb",),
)
CONFIG = TrainConfig(
    epochs=3,
    batch_size=16,
    learning_rate=0.02,
    ema_decay=0.9,
    log_every=3,
    p_max=0.9,
    monitor="macro_auroc",
    seed=11,
    lambda_cons=0.5,
)


def collator() -> Collator:
    return Collator(TASK)


def make_patients(n: int, seed: int = 0, name: str = "p") -> list[Patient]:
    rng = np.random.default_rng(seed)
    patients = []
    for i in range(n):
        y = int(rng.choice(3, p=TASK.prevalence))
        image = torch.from_numpy(rng.normal(0.4 * y, 1, (1, 4, 3)).astype(np.float32))
        labs = {"crp": float(rng.normal(y, 1)), "wbc": float(rng.normal(-y, 1))}
        seen = rng.random(3) < 0.7
        modalities = {
            "xray": image if seen[0] else None,
            "labs": labs if seen[1] else None,
            "genes": {"snp": ("aa", "ab", "bb")[y]} if seen[2] else None,
        }
        patients.append(Patient(f"{name}{i}", modalities, {TASK.classes[y]: True}))
    return patients


class ToyEncoders(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList([nn.Linear(12, d), nn.Linear(2, d), nn.Linear(1, d)])
        self.register_buffer("fitted", torch.zeros(()))

    def fit(self, batch: Batch) -> None:
        self.fitted.fill_(len(batch))

    def forward(self, batch: Batch) -> Encoded:
        B, M = batch.presence.shape
        H = torch.zeros(B, M, self.linear[0].out_features)
        segments = torch.zeros(B, M, 2, dtype=torch.int32)
        for i, (name, linear) in enumerate(zip(TASK.modality_names, self.linear, strict=True)):
            rows, value = batch.inputs[name][:2]
            if len(rows):  # an absent modality's weights get no gradient
                H = H.index_put((rows, torch.full_like(rows, i)), linear(value.flatten(1)).to(H.dtype))
                segments[rows, i, 1] = 1
        return Encoded(H.flatten(0, 1), segments, H)


class Toy(DiagnosisModel):
    """Noise per patient and step, a loss against a teacher, dropout if asked for."""

    def __init__(self, task: Task = TASK, d: int = 5, dropout: float = 0.0) -> None:
        super().__init__(task, ModelConfig(), ToyEncoders(d))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(d, len(task.classes))
        self.teacher = nn.Linear(d, len(task.classes)).requires_grad_(False)
        self.teacher.load_state_dict(self.head.state_dict())
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def logits(self, encoded: Encoded, head: nn.Module) -> Tensor:
        return head(self.dropout((encoded.H * encoded.m[..., None]).sum(1)))

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        logits = self.logits(encoded.keep(kept), self.head)
        noise = torch.tensor([(zlib.crc32(f"{id} {self.step}".encode()) % 1000) / 1000 for id in batch.ids])
        with torch.no_grad():
            target = self.logits(encoded, self.teacher) + noise[:, None]
        L_class = class_loss(self.labels, logits, batch, weight)
        return Losses(L_class=L_class, L_cons=(logits - target).square().mean())

    def before_step(self, key: int) -> None:
        self.step.fill_(key)

    @torch.no_grad()
    def after_step(self) -> None:
        for a, b in zip(self.teacher.parameters(), self.head.parameters(), strict=True):
            a.lerp_(b, 0.1)

    def classify(self, encoded: Encoded) -> Logits:
        return Logits(self.logits(encoded, self.head))


class SlowToy(Toy):
    """Waits in every step, so that a signal can hit any place of one."""

    def losses(self, *args: Tensor) -> Losses:
        time.sleep(0.02)
        return super().losses(*args)


def run(out_dir: Path | str, config: TrainConfig = CONFIG, resume: bool = False, model: Toy | None = None):
    if model is None:
        torch.manual_seed(5)
        model = Toy(dropout=0.1)
    return train(
        model, make_patients(93), make_patients(41, 1, "v"), collator(), config, out_dir, resume=resume
    )


def long_run(out_dir: Path, resume: bool = False) -> None:
    torch.manual_seed(5)
    config = CONFIG.model_copy(update={"epochs": 12, "save_every": 7})
    run(out_dir, config, resume, model=SlowToy(dropout=0.1))


def start(target: Callable[..., None], *arguments: Any, stderr: Path, **environment: str) -> BaseProcess:
    """Calls target(*arguments) in a process of its own, forked from one that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["robustmdiff.diagnosis.train", "torch._dynamo", "torch.utils.tensorboard"]
    )
    process = context.Process(target=_quiet, args=(target, arguments, stderr, environment))
    process.start()
    return process


def _quiet(target: Callable[..., None], arguments: Any, stderr: Path, environment: dict[str, str]) -> None:
    with stderr.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)
