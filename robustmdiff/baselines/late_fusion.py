"""Late fusion: every modality makes a diagnosis of its own, and those of the present are averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.baselines.heads import FindingHeads
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, mean_where
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders


class LateFusion(DiagnosisModel):
    """p ~ exp(tau_n mean_i log p_i) over the n modalities present, with a learned temperature for
    each n (n agreeing modalities are surer than one); a prior is trained where nothing is present."""

    def __init__(self, task: Task, config: ModelConfig) -> None:
        super().__init__(task, config, ModalityEncoders(task, config))
        d, M, C = config.d_h, len(task.modalities), len(task.classes)
        self.hidden = nn.Parameter(torch.randn(M, d, d) * d**-0.5)
        self.W = nn.Parameter(torch.zeros(M, d, C))
        self.b = nn.Parameter(self.labels.log_prior(task.prevalence).repeat(M, 1))
        self.log_tau = nn.Parameter(torch.zeros(M + 1))
        self.prior = nn.Parameter(self.labels.log_prior(task.prevalence))
        self.findings = FindingHeads(task, d) if task.findings else None

    def _logits(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """-> H with absent rows 0 [B, M, d], each modality's logits [B, M, C], fused [B, C]."""
        m = encoded.m
        H = encoded.H.masked_fill(~m[..., None], 0)
        x = torch.einsum("bmd,mde->bme", H, self.hidden).relu()
        each = torch.einsum("bmd,mdc->bmc", x, self.W) + self.b
        n = m.sum(1)
        fused = self.log_tau.exp()[n][:, None] * mean_where(each, m)  # log p_i, up to a constant
        return H, each, torch.where((n > 0)[:, None], fused, self.prior)

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class: the fused diagnosis and the mean of the visible modalities' own, half each; L_find."""
        student = encoded.keep(kept)
        H, each, fused = self._logits(student)
        label, known = batch.label, batch.label_known
        together = self.labels.loss(fused, label, known, weight)
        alone = self.labels.loss(each, label[:, None], known[:, None], weight[:, None])  # [B, M]
        mean = mean_where(H, student.m)
        return Losses(
            L_class=((together + mean_where(alone, student.m)) / 2).mean(),
            L_find=0.0 if self.findings is None else self.findings.loss(mean, H, student.m, batch),
        )

    def classify(self, encoded: Encoded) -> Logits:
        return Logits(self._logits(encoded)[2])
