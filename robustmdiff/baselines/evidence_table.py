"""Evidence and the disease table alone: RobustMDiff without Z, without its head and without diffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.concepts import ConceptEmbedding, DiseaseTable, Evidence
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, class_loss, finding_loss
from robustmdiff.diagnosis.signs import signs_of
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.forecast.contract import total_evidence
from robustmdiff.knowledge.concepts import ConceptTable


class EvidenceTable(DiagnosisModel):
    """log p(y | m) = log prior + log p(lambda(m) | y): the evidence for each sign, added up over what is
    visible, through P(sign | class). Whatever RobustMDiff is better at, its latent Z and its draws give.

    Signs are the findings or, where the task labels none, the classes. concepts and read are those of
    `RobustMDiff`, and so is every weight.
    """

    encoders: ModalityEncoders
    concept_table: ConceptTable
    sign_rows: Tensor
    log_prior: Tensor

    def __init__(
        self,
        task: Task,
        config: ModelConfig,
        concepts: ConceptTable,
        read: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        super().__init__(task, config, ModalityEncoders(task, config))
        self.concept_table, self.signs = concepts, signs_of(task, classes=True)
        d, M, F = config.d_h, len(task.modalities), len(self.signs.names)
        self.register_buffer("sign_rows", self.signs.rows(concepts))
        self.concepts = ConceptEmbedding(concepts, d, config.heads, read)
        self.text = next((text.name for text in task.of_kind("text")), None)
        self.evidence = Evidence(d, M, F)
        self.log_tau = nn.Parameter(torch.zeros(M + 1))
        given_class = self.signs.given_class(task, concepts, self.labels)
        self.table = DiseaseTable(given_class, learned=not self.signs.are_classes)
        self.register_buffer("log_prior", self.labels.log_prior(task.prevalence))
        self.prior_shift = nn.Parameter(torch.zeros(len(task.classes)))
        prevalence = self.labels.probability(self.log_prior)
        of_each = (prevalence[:, None] * self.table.T()[: len(prevalence)]).sum(0) / prevalence.sum()
        base = prevalence if self.signs.are_classes else of_each
        self.sign_prior = nn.Parameter(base.detach().logit())

    def encode(self, batch: Batch) -> Encoded:
        encoded = self.encoders(batch)
        K = self.concepts(self.encoders.encoders[self.text] if self.text else None)
        evidence = self.evidence(encoded.tokens, encoded.segments, K[self.sign_rows])
        return encoded._replace(evidence=evidence, K=K)

    def total_evidence(self, encoded: Encoded) -> Tensor:
        """lambda(m) [B, F], nats, scaled by tau_n and bounded as in RobustMDiff."""
        assert encoded.evidence is not None
        tau = self.log_tau.exp()[encoded.m.sum(1), None, None]
        return total_evidence(encoded.evidence.masked_fill(~encoded.m[..., None], 0) * tau)

    def _logits(self, evidence: Tensor) -> Tensor:
        return self.log_prior + self.prior_shift + self.labels.contrast(self.table(evidence))

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class, whose gradient ends at the evidence of known signs, and L_find."""
        student = encoded.keep(kept)
        assert student.evidence is not None
        evidence = self.total_evidence(student)
        holds, known = self.signs.truth(batch)
        settled = torch.where(known.any(1, keepdim=True), evidence.detach(), evidence)
        said = self.sign_prior + student.evidence, self.sign_prior + evidence
        return Losses(
            L_class=class_loss(self.labels, self._logits(settled), batch, weight),
            L_find=finding_loss(*said, student.m, holds, known),
        )

    def classify(self, encoded: Encoded) -> Logits:
        return Logits(self._logits(self.total_evidence(encoded)))
