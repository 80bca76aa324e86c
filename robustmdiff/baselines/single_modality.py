"""One modality and nothing else, such as text only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.baselines.heads import FindingHeads, class_head
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders


class SingleModality(DiagnosisModel):
    """The encoder of the modality `name` and a head. No other modality is visible to it, present or not: it
    answers with the prevalence where `name` is absent, and trains a prior there."""

    def __init__(self, task: Task, config: ModelConfig, name: str) -> None:
        super().__init__(task, config, ModalityEncoders(task, config, only=(name,)))
        self.name = name
        self.index = task.modality_names.index(task.modality(name).name)
        self.d = config.d_h
        self.hidden = nn.Sequential(nn.Linear(self.d, self.d), nn.GELU(), nn.Dropout(config.dropout))
        self.head = class_head(self.d, self.labels.log_prior(task.prevalence))
        self.prior = nn.Parameter(self.labels.log_prior(task.prevalence))
        self.findings = FindingHeads(task, self.d) if task.findings else None

    def _logits(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """-> H with absent rows 0 [B, M, d], its hidden layer [B, d], logits [B, C]."""
        H = encoded.H.masked_fill(~encoded.m[..., None], 0)
        x = self.hidden(H[:, self.index])
        return H, x, torch.where(encoded.m[:, self.index, None], self.head(x), self.prior)

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class and L_find."""
        student = encoded.keep(kept)
        H, x, logits = self._logits(student)
        return Losses(
            L_class=class_loss(self.labels, logits, batch, weight),
            L_find=0.0 if self.findings is None else self.findings.loss(x, H, student.m, batch),
        )

    def classify(self, encoded: Encoded) -> Logits:
        return Logits(self._logits(encoded)[2])
