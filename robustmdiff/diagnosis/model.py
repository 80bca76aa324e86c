"""RobustMDiff: encoders, knowledge, integration, conditional latent diffusion, diagnosis.

The unified latent has two parts, x = (Z, lambda): Z(m) of the paper's integration, and the
evidence for each sign (`Signs`). What an answer needs of it is y = (lambda, head(Z)). The diffusion learns
what it would be under a fuller view of the patient, given the view there is: in a second stage, once the
rest no longer changes, or jointly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.concepts import ConceptEmbedding, DiseaseTable, Evidence
from robustmdiff.diagnosis.contract import DRAWS, HEAD, DiagnosisModel, Logits
from robustmdiff.diagnosis.integration import Integration
from robustmdiff.diagnosis.joint_denoiser import JointDenoiser
from robustmdiff.diagnosis.losses import Losses, class_loss, consistency_loss, finding_loss
from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.diagnosis.second_stage import SecondStage
from robustmdiff.diagnosis.signs import signs_of
from robustmdiff.diagnosis.views import between, fullest, most_frequent
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.encoders.tensors import hide
from robustmdiff.forecast.contract import EVIDENCE_UNIT, Seen, total_evidence
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.labels import RAREST
from robustmdiff.nn.dropout import patient_numbers
from robustmdiff.ops import philox_key

FULL_VIEW_HEAD = "full-view head"  # the name of an answer
ASKED = 0.25  # share of the patients of a step whom L_cons is about: to encode for the teacher costs as much


class RobustMDiff(DiagnosisModel):
    """concepts: diseases named as the task's classes and findings named as the task's findings
    are tied to them; further concepts only inform. read: name -> token ids, for the encoder of the
    first text modality (see ConceptEmbedding). signs: what evidence is read for. denoiser: whether one is
    trained jointly with the rest.

    second_stage  what was learned on the latents afterwards; None before, and of a model that has none.
    """

    renamed: ClassVar = {
        "R.weight": "evidence.E.weight",
        "finding_rows": "sign_rows",
        "finding_prior": "sign_prior",
    }
    added: ClassVar = (*DiagnosisModel.added, "log_tau")
    encoders: ModalityEncoders
    concept_table: ConceptTable
    sign_rows: Tensor
    views: Tensor
    log_prior: Tensor
    step: Tensor

    def __init__(
        self,
        task: Task,
        config: ModelConfig,
        concepts: ConceptTable,
        read: Callable[[str], Sequence[int]] | None = None,
        *,
        denoiser: bool = False,
    ) -> None:
        super().__init__(task, config, ModalityEncoders(task, config))
        self.second_stage: SecondStage | None = None
        self.answer = DRAWS if denoiser else HEAD
        self.concept_table = concepts
        self.signs = signs_of(task, classes=config.class_evidence)
        d, M, F = config.d_h, len(task.modalities), len(self.signs.names)
        self.register_buffer("sign_rows", self.signs.rows(concepts))

        self.concepts = ConceptEmbedding(concepts, d, config.heads, read)
        self.text = next((text.name for text in task.of_kind("text")), None)
        self.evidence = Evidence(d, M, F)
        self.log_tau = nn.Parameter(torch.zeros(M + 1), requires_grad=self.signs.are_classes)
        log_pi = torch.from_numpy(concepts.prevalence).float().clamp(min=1e-9).log()  # NaN where unknown
        self.integration = Integration(config, M, log_pi)
        self.teacher = copy.deepcopy(self.integration).requires_grad_(False)

        self.latent, self.condensed = d + F, F + len(task.classes)
        self.denoiser = JointDenoiser(self.latent, M, config) if denoiser else None

        self.register_buffer("log_prior", self.labels.log_prior(task.prevalence))
        self.prior_shift = nn.Parameter(torch.zeros(len(task.classes)))
        given_class = self.signs.given_class(task, concepts, self.labels)
        self.table = DiseaseTable(given_class, learned=not self.signs.are_classes)
        self.head = nn.Linear(d, len(task.classes))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        of_signs = self.signs.prevalence(self.labels.probability(self.log_prior), self.table.T().detach())
        self.sign_prior = nn.Parameter(of_signs.logit(RAREST))  # finite, too, where there is one class
        everything = torch.ones(1, M, dtype=torch.bool)
        self.register_buffer("views", most_frequent(everything))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    # What is observed -> latent -> probabilities

    def embed_concepts(self) -> Tensor:
        """K [k, d_h]; the same for every patient."""
        return self.concepts(self.encoders.encoders[self.text] if self.text else None)

    def weights_of_concepts(self) -> Iterator[nn.Parameter]:
        """Those that `embed_concepts` reads."""
        yield from self.concepts.parameters()
        if self.text:
            yield from self.encoders.encoders[self.text].parameters()

    def encode(self, batch: Batch, K: Tensor | None = None) -> Encoded:
        """K: from `embed_concepts`, for who encodes many batches with the same weights."""
        return self.inform(self.encoders(batch), K)

    def look(self, batch: Batch, kept: Tensor) -> Encoded:
        """What the student sees and, of whom the teacher is asked about, the rest as well, without a
        gradient."""
        asked = self._asked(batch) > 0
        return self.inform(self.encoders(hide(batch, kept | asked[:, None]), learns=kept))

    def inform(self, encoded: Encoded, K: Tensor | None = None) -> Encoded:
        """What the encoders gave, with the concepts and the evidence for each sign."""
        K = self.embed_concepts() if K is None else K
        evidence = self.evidence(encoded.tokens, encoded.segments, K[self.sign_rows])
        return encoded._replace(evidence=evidence, K=K)

    def evidence_of_each(self, encoded: Encoded) -> Tensor:
        """What each visible modality says of each sign, nats [B, M, F]; 0 where it is absent."""
        assert encoded.evidence is not None
        return self.together(encoded.evidence, encoded.m)

    def together(self, evidence: Tensor, m: Tensor) -> Tensor:
        """Evidence [n, M, F] of what is visible, m bool [n, M], 0 of the rest.

        What k modalities say is scaled by tau_k: those that repeat each other say less than their sum. Of
        findings, which are seen one by one, tau_k is 1; of classes it is learned.
        """
        tau = self.log_tau.exp()[m.sum(1)]
        return evidence.masked_fill(~m[..., None], 0) * tau[:, None, None]

    def total_evidence(self, encoded: Encoded) -> Tensor:
        """lambda(m) [B, F], nats: the sum of `evidence_of_each`, bounded smoothly."""
        return total_evidence(self.evidence_of_each(encoded))

    def observe(self, encoded: Encoded, integration: Integration | None = None) -> Tensor:
        """x(m) = (Z(m), lambda(m)) [B, d_h + F]."""
        if encoded.x is not None and integration is None:
            return encoded.x
        Z = (integration or self.integration)(encoded)
        return torch.cat([Z, self.total_evidence(encoded) / EVIDENCE_UNIT], dim=-1)

    def condense(self, x: Tensor) -> Tensor:
        """x = (Z, lambda) [..., d_h + F] -> y = (lambda, h) [..., F + C], h = head(Z): all that an answer
        needs of x, and what a forecast is of."""
        Z, evidence = x[..., : self.config.d_h], x[..., self.config.d_h :]
        return torch.cat([evidence, self.head(Z)], dim=-1)

    def logits_from(self, y: Tensor) -> Tensor:
        """y [..., F + C] -> [..., C]: prevalence, the disease table on the evidence, and the head's h."""
        C = len(self.task.classes)
        evidence, h = y[..., :-C] * EVIDENCE_UNIT, y[..., -C:]
        return self.log_prior + self.prior_shift + self.labels.contrast(self.table(evidence)) + h

    def logits(self, x: Tensor) -> Tensor:
        """x [..., d_h + F] -> [..., C]."""
        return self.logits_from(self.condense(x))

    def probability_from(self, y: Tensor) -> Tensor:
        """y [..., F + C] -> [..., C], the weights of rare classes taken off, at temperature 1: what a second
        stage learns from."""
        return self.labels.probability(self.logits_from(y) - self.log_weight)

    def seen(self, encoded: Encoded) -> Seen:
        """What a forecast is asked with."""
        y = self.condense(self.observe(encoded))
        return Seen(y, encoded.m, self.evidence_of_each(encoded), self.probability_from(y))

    # Training

    @torch.no_grad()
    def fit(self, batch: Batch) -> None:
        """Scales of the values, and the views that can be imagined (see `views`)."""
        super().fit(batch)
        self.views.copy_(most_frequent(batch.presence))

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """The student sees what is kept and is taught by what else was observed (see docs/concepts.md)."""
        student = encoded.keep(kept)
        x_m = self.observe(student)
        with torch.no_grad():
            complete = self.teacher(encoded)
        L_class = class_loss(self.labels, self.logits(self._settle_evidence(x_m, batch)), batch, weight)
        L_diff: Tensor | float = 0.0
        if self.denoiser is not None:
            noise = self._noise(batch)
            view = between(encoded.m, student.m, noise.uniform(1 + kept.shape[1], stream=1))
            with torch.no_grad():
                x_0 = self.observe(encoded.keep(view), self.teacher)
            L_diff, x_hat = self.denoiser.loss(x_0, x_m, view, student, noise)
            L_class = (L_class + class_loss(self.labels, self.logits(x_hat.detach()), batch, weight)) / 2
        return Losses(
            L_diff=L_diff,
            L_cons=consistency_loss(x_m[:, : self.config.d_h], complete, self._asked(batch)),
            L_class=L_class,
            L_find=self._finding_loss(student, batch) if self.signs.names else 0.0,
        )

    def _asked(self, batch: Batch) -> Tensor:
        """How much of each patient L_cons counts in this step, [B], 1 on average: 0 of most. A denoiser's
        target is the teacher's view of everybody."""
        if self.denoiser is not None:
            return torch.ones(len(batch), device=self.step.device)
        return (self._noise(batch).uniform(1, stream=4)[:, 0] < ASKED) / ASKED

    def _noise(self, batch: Batch) -> PatientNoise:
        return PatientNoise(patient_numbers(batch.ids, self.step.device), self.step)

    def _settle_evidence(self, x: Tensor, batch: Batch) -> Tensor:
        """x with its evidence cut off from the class loss for patients whose signs are known.

        Evidence is to be what it says, a likelihood ratio. Left to the class loss as well, it bends
        until the disease table fits, and most where the table is wrong.
        """
        Z, evidence = x.split([self.config.d_h, x.shape[-1] - self.config.d_h], dim=-1)
        known = self.signs.truth(batch)[1].any(1, keepdim=True)
        return torch.cat([Z, torch.where(known, evidence.detach(), evidence)], dim=-1)

    def _finding_loss(self, student: Encoded, batch: Batch) -> Tensor:
        """Evidence must be worth what it claims, each modality's alone and their sum."""
        assert student.evidence is not None
        alone, together = student.evidence, self.total_evidence(student)
        holds, known = self.signs.truth(batch)
        return finding_loss(self.sign_prior + alone, self.sign_prior + together, student.m, holds, known)

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in evaluation mode: its targets have no dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def before_step(self, key: int) -> None:
        self.step.fill_(key)

    @torch.no_grad()
    def after_step(self) -> None:
        """The teacher follows the student: theta' <- decay theta' + (1 - decay) theta."""
        student = self.integration.state_dict()
        for name, value in self.teacher.state_dict().items():
            if value.is_floating_point():
                value.lerp_(student[name], 1 - self.config.teacher_decay)

    # Diagnosis

    @torch.no_grad()
    def imagine(self, encoded: Encoded, *, view: Tensor | None = None, draws: int, seed: int = 0) -> Tensor:
        """Draws of y under the view m', bool [B, M] (the fullest that training knows, unless given)
        -> [B, S, F + C]: the second stage's, the joint denoiser's of a model without one. Draw s uses the
        same noise for every patient, so an answer depends neither on the batch nor on its order."""
        m = encoded.m
        view = fullest(self.views, m) if view is None else view | m
        key = philox_key(seed, device=m.device)
        if self.second_stage is not None:
            return self.second_stage.draw(self, self.seen(encoded), view, draws, key)
        assert self.denoiser is not None
        return self.condense(self.denoiser.draw(self.observe(encoded), view, encoded, draws, key))

    @property
    def imagines(self) -> bool:
        """Whether there is anything to imagine with; not yet in a model that trains for its second stage."""
        return self.denoiser is not None or self.second_stage is not None

    @property
    def heads(self) -> Mapping[str, Callable[[Encoded], Logits]]:
        heads = {HEAD: self.classify}
        return heads if self.second_stage is None else heads | {FULL_VIEW_HEAD: self.expect}

    @property
    def answers(self) -> tuple[str, ...]:
        return (*self.heads, DRAWS) if self.imagines else tuple(self.heads)

    def answering(self, draws: int | None) -> str:
        return super().answering(draws if self.imagines else 0)

    def classify(self, encoded: Encoded) -> Logits:
        """At x(m), what is observed."""
        y = self.condense(self.observe(encoded))
        return Logits(self.logits_from(y), self._findings_of(y))

    def expect(self, encoded: Encoded) -> Logits:
        """What the full view is expected to say."""
        assert self.second_stage is not None
        seen = self.seen(encoded)
        return Logits(self.second_stage.expected(self, seen) + self.log_weight, self._findings_of(seen.y))

    def imagined(self, encoded: Encoded, *, draws: int, seed: int) -> Logits | None:
        """At `draws` y under the fullest view (`imagine`)."""
        if not self.imagines:
            return None
        return self.said_at(self.imagine(encoded, draws=draws, seed=seed))

    def said_at(self, y: Tensor) -> Logits:
        """At draws of y, [B, S, F + C]."""
        y = y.transpose(0, 1)
        return Logits(self.logits_from(y), self._findings_of(y))

    def _findings_of(self, y: Tensor) -> Callable[[Tensor], Tensor] | None:
        """y [..., F + C]; None where the signs are no findings."""
        if self.signs.are_classes:
            return None
        evidence = y[..., : -len(self.task.classes)] * EVIDENCE_UNIT
        if self.labels.exclusive:
            return lambda p: self.table.findings(evidence, p)
        return lambda p: torch.sigmoid(self.sign_prior + evidence)
