"""A product of experts: each modality has a Gaussian opinion of the latent, and they multiply."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from robustmdiff.baselines.heads import FindingHeads, class_head
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.nn.dropout import patient_numbers


class ProductOfExperts(DiagnosisModel):
    """q(z | m) ~ p(z) prod_{i visible} N(z; mu_i, 1 / T_i) with the prior expert p = N(0, 1) (Wu and Goodman
    2018, Multimodal Generative Models for Scalable Weakly-Supervised Learning, section 2.2), which is

        N(z; mu, 1 / T),   T = 1 + sum_i T_i,   mu = sum_i mu_i T_i / T.

    Supervised: a linear head on z in place of their decoders; z is drawn in training, and mu diagnoses.
    """

    step: Tensor

    def __init__(self, task: Task, config: ModelConfig) -> None:
        super().__init__(task, config, ModalityEncoders(task, config))
        d, M = config.d_h, len(task.modalities)
        self.W = nn.Parameter(torch.randn(2, M, d, d) * d**-0.5)  # of mu_i, of T_i
        self.b = nn.Parameter(torch.zeros(2, M, d))
        self.head = class_head(d, self.labels.log_prior(task.prevalence))
        self.findings = FindingHeads(task, d) if task.findings else None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def product(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """-> mu and T of what is visible, [B, d] each."""
        m = encoded.m[..., None]
        H = encoded.H.masked_fill(~m, 0)
        mu, s = torch.einsum("bmd,kmde->kbme", H, self.W) + self.b[:, None]
        T = softplus(s) * m
        total = 1 + T.sum(1)
        return (mu * T).sum(1) / total, total

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class and L_find."""
        student = encoded.keep(kept)
        mu, T = self.product(student)
        noise = PatientNoise(patient_numbers(batch.ids, mu.device), self.step)
        z = mu + noise.normal(mu.shape[1], stream=1) * T.rsqrt()
        H = student.H.masked_fill(~student.m[..., None], 0)
        return Losses(
            L_class=class_loss(self.labels, self.head(z), batch, weight),
            L_find=0.0 if self.findings is None else self.findings.loss(z, H, student.m, batch),
        )

    def before_step(self, key: int) -> None:
        self.step.fill_(key)

    def classify(self, encoded: Encoded) -> Logits:
        return Logits(self.head(self.product(encoded)[0]))
