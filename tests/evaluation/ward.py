"""Patients whose posterior is in closed form, and models that give it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.evaluation.protocol import evaluate

CLASSES = ("well", "ill", "gravely ill", "rarely seen")
MODALITIES = ("a", "b", "c")
C, M = len(CLASSES), len(MODALITIES)
TASK = Task(
    modalities=tuple(Modality(name, "values", fields=(Field("x"),)) for name in MODALITIES),
    classes=CLASSES,
    prevalence=(0.4, 0.3, 0.2, 0.1),
    rare=("rarely seen",),
)


def ward(n, seed=0, missing=0.2):
    """Patients whose modalities each hold the class plus noise: the posterior is in closed form."""
    rng = np.random.default_rng(seed)
    y = rng.choice(C, n, p=TASK.prevalence)
    x = y[:, None] + rng.normal(0, 0.8, (n, M))
    present = rng.random((n, M)) >= missing
    present[0] = False
    patients = [
        Patient(
            id=f"p{seed}-{i}",
            modalities={
                name: {"x": float(x[i, m])} if present[i, m] else None for m, name in enumerate(MODALITIES)
            },
            labels={name: c == y[i] for c, name in enumerate(CLASSES)},
        )
        for i in range(n)
    ]
    return patients, x, present


def posterior(x, present):
    log = -(((x[:, :, None] - np.arange(C)) / 0.8) ** 2) / 2 * present[:, :, None]
    p = np.exp(log.sum(1)) * np.array(TASK.prevalence)
    return p / p.sum(1, keepdims=True)


collate = Collator(TASK)


class Stub(DiagnosisModel):
    """The exact posterior, made overconfident by `sharpen`; reads what is kept only."""

    def __init__(self, sharpen=1.0, task=TASK):
        super().__init__(task, ModelConfig(), None)
        self.sharpen = nn.Parameter(torch.tensor(sharpen))
        self.encoded = 0

    def encode(self, batch):
        self.encoded += 1
        x = torch.full(batch.presence.shape, torch.nan)
        for m, name in enumerate(MODALITIES):
            x[batch.inputs[name].rows, m] = batch.inputs[name].value[:, 0]
        rows = torch.arange(x.numel()).reshape(x.shape)
        segments = torch.stack([rows, batch.presence.long()], -1).int()
        return Encoded(x.reshape(-1, 1), segments, x[..., None])

    def classify(self, encoded):
        assert not self.training
        here = encoded.m
        x = encoded.H[..., 0].masked_fill(~here, 0)
        return Logits(self.sharpen * torch.from_numpy(posterior(x.numpy(), here.numpy())).float().log())

    def losses(self, encoded, batch, kept, weight):
        raise AssertionError("evaluation does not train")

    def after_step(self):
        raise AssertionError("evaluation does not train")


def run(n=180, models=None, **options):
    patients, x, _ = ward(n)
    references = {"ceiling": lambda left: posterior(x, left)} | options.pop("references", {})
    options = {"replicates": 20, "references": references} | options
    models = models or {"stub": Stub(), "sure": Stub(2.5)}
    return evaluate(models, patients, collate, TASK, **options)
