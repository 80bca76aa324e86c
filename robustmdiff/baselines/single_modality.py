"""One modality and nothing else, such as text only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.baselines.heads import FindingHeads, class_loss, log_prevalence, probability
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Diagnosis, Encoded
from robustmdiff.encoders.modalities import ModalityEncoders


class SingleModality(nn.Module):
    """The encoder of the modality `name` and a head; where it is absent, a learned prior. It reads
    no other modality, present or not."""

    def __init__(self, task: Task, config: ModelConfig, name: str) -> None:
        super().__init__()
        self.task, self.config = task, config
        self.name = name
        self.index = task.modality_names.index(task.modality(name).name)
        self.d = config.d_h
        self.encoders = ModalityEncoders(task, config, only=(name,))
        self.hidden = nn.Sequential(nn.Linear(self.d, self.d), nn.GELU(), nn.Dropout(config.dropout))
        self.head = nn.Linear(self.d, len(task.classes))
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(log_prevalence(task))
        self.prior = nn.Parameter(log_prevalence(task))
        self.findings = FindingHeads(task, self.d) if task.findings else None

    def encode(self, batch: Batch) -> Encoded:
        """Every other modality is encoded as absent."""
        return self.encoders(batch)

    def _logits(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """-> H with absent rows 0 [B, M, d], its hidden layer [B, d], logits [B, C]."""
        present = encoded.presence()
        H = encoded.H.masked_fill(~present[..., None], 0)
        x = self.hidden(H[:, self.index])
        return H, x, torch.where(present[:, self.index, None], self.head(x), self.prior)

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """L_class and L_find."""
        student = encoded.keep(kept)
        H, x, logits = self._logits(student)
        losses = {"class": class_loss(logits, batch, weight, self.task)}
        if self.findings is not None:
            losses["find"] = self.findings.loss(x, H, student.presence(), batch)
        return losses

    @torch.no_grad()
    def diagnose(self, encoded: Encoded, *, draws: int = 16, seed: int = 0) -> Diagnosis:
        """Deterministic: draws and seed change nothing."""
        return Diagnosis(probability(self._logits(encoded)[2], self.task))

    def fit(self, batch: Batch) -> None:
        self.encoders.fit(batch)

    def after_step(self) -> None:
        """Nothing to do: no teacher."""
