"""Late fusion: every modality makes a diagnosis of its own, and those of the present are averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from robustmdiff.baselines.heads import FindingHeads, class_loss, log_prevalence, probability
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Diagnosis, Encoded
from robustmdiff.encoders.modalities import ModalityEncoders


class LateFusion(nn.Module):
    """p ~ exp(tau_n mean_i log p_i) over the n modalities present, with a learned temperature for
    each n (n agreeing modalities are surer than one); nothing present: a learned prior."""

    def __init__(self, task: Task, config: ModelConfig) -> None:
        super().__init__()
        self.task, self.config = task, config
        d, M, C = config.d_h, len(task.modalities), len(task.classes)
        self.encoders = ModalityEncoders(task, config)
        self.hidden = nn.Parameter(torch.randn(M, d, d) * d**-0.5)
        self.W = nn.Parameter(torch.zeros(M, d, C))
        self.b = nn.Parameter(log_prevalence(task).repeat(M, 1))
        self.log_tau = nn.Parameter(torch.zeros(M + 1))
        self.prior = nn.Parameter(log_prevalence(task))
        self.findings = FindingHeads(task, d) if task.findings else None

    def encode(self, batch: Batch) -> Encoded:
        return self.encoders(batch)

    def _logits(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """-> H with absent rows 0 [B, M, d], each modality's logits [B, M, C], fused [B, C]."""
        present = encoded.presence()
        H = encoded.H.masked_fill(~present[..., None], 0)
        x = torch.einsum("bmd,mde->bme", H, self.hidden).relu()
        each = torch.einsum("bmd,mdc->bmc", x, self.W) + self.b
        said = each if self.task.multilabel else log_softmax(each, dim=-1)
        n = present.sum(1)
        mean = (said * present[..., None]).sum(1) / n.clamp(min=1)[:, None]
        fused = self.log_tau.exp()[n][:, None] * mean
        return H, each, torch.where((n > 0)[:, None], fused, self.prior)

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """L_class: the fused diagnosis and each modality's own, half each; L_find."""
        student = encoded.keep(kept)
        present = student.presence()
        H, each, fused = self._logits(student)
        B, M, _ = each.shape
        # a modality's own diagnosis: patients who lack it weigh nothing
        alone = [class_loss(each[:, i], batch, weight * present[:, i], self.task) for i in range(M)]
        own = torch.stack(alone).sum() * B / present.sum().clamp(min=1)
        losses = {"class": (class_loss(fused, batch, weight, self.task) + own) / 2}
        if self.findings is not None:
            mean = H.sum(1) / present.sum(1, keepdim=True).clamp(min=1)
            losses["find"] = self.findings.loss(mean, H, present, batch)
        return losses

    @torch.no_grad()
    def diagnose(self, encoded: Encoded, *, draws: int = 16, seed: int = 0) -> Diagnosis:
        """Deterministic: draws and seed change nothing."""
        return Diagnosis(probability(self._logits(encoded)[2], self.task))

    def fit(self, batch: Batch) -> None:
        self.encoders.fit(batch)

    def after_step(self) -> None:
        """Nothing to do: no teacher."""
