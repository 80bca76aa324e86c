"""RobustMDiff: encoders, knowledge, integration, conditional latent diffusion, diagnosis.

The unified latent has two parts, x = (Z, lambda): Z(m) of the paper's integration, and the
evidence for each finding. The diffusion learns what x would be under a fuller view of the
patient, given the view there is; a diagnosis averages what the head says of many such x.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.concepts import ConceptEmbedding, DiseaseTable, FindingEvidence
from robustmdiff.diagnosis.integration import Integration
from robustmdiff.diffusion.denoiser import Condition, LatentDenoiser
from robustmdiff.diffusion.loss import diffusion_loss
from robustmdiff.diffusion.sample import pure_noise, sample_ddpm
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Diagnosis, Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.nn.dropout import patient_numbers
from robustmdiff.ops import philox_key
from robustmdiff.ops.philox import philox_row_words
from robustmdiff.refusal import Refusal

EVIDENCE_LIMIT = 8.0  # nats; beyond it a finding is as good as seen, and the head's answer no longer moves
EVIDENCE_UNIT = 4.0  # nats per unit of the latent, so that both of its parts have a similar scale
VIEWS = 64  # combinations of modalities remembered from training
NOISINGS = 4  # noise levels per patient and training step: the denoiser is cheap, the encoders are not


class RobustMDiff(nn.Module):
    """concepts: diseases named as the task's classes and findings named as the task's findings
    are tied to them; further concepts only inform. read: name -> token ids, for the encoder of the
    first text modality (see ConceptEmbedding).
    """

    finding_rows: Tensor
    views: Tensor
    log_prior: Tensor
    step: Tensor

    def __init__(
        self,
        task: Task,
        config: ModelConfig,
        concepts: ConceptTable,
        read: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.task, self.config, self.concept_table = task, config, concepts
        d, M, F = config.d_h, len(task.modalities), len(task.findings)
        row = {
            (kind, name): i for i, (kind, name) in enumerate(zip(concepts.kind, concepts.name, strict=True))
        }
        missing = [name for name in task.findings if ("finding", name) not in row]
        if missing:
            raise Refusal(
                f"RobustMDiff: concepts lack the findings {missing}, expected one for each of the task's"
            )
        self.register_buffer(
            "finding_rows", torch.tensor([row["finding", f] for f in task.findings], dtype=torch.long)
        )

        self.encoders = ModalityEncoders(task, config)
        self.concepts = ConceptEmbedding(concepts, d, config.heads, read)
        self.text = next((m.name for m in task.modalities if m.kind == "text"), None)
        self.R = nn.Linear(d, d, bias=False)  # relevance
        self.evidence = FindingEvidence(d, M, F)
        self.integration = Integration(config, M, log_prevalence(concepts))
        self.teacher = copy.deepcopy(self.integration).requires_grad_(False)

        self.latent = d + F
        self.schedule = Schedule(config.T, config.beta_schedule, config.steps)
        self.denoiser = LatentDenoiser(self.latent, d, M, config.width, config.depth, config.heads)

        frequency = class_frequencies(task, concepts)
        prevalence = torch.tensor(task.prevalence).clamp(1e-5, 1 - 1e-5)
        self.register_buffer("log_prior", prevalence.logit() if task.multilabel else prevalence.log())
        self.prior_shift = nn.Parameter(torch.zeros(len(task.classes)))
        self.table = DiseaseTable(frequency)
        self.head = nn.Linear(d, len(task.classes))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        base = (prevalence[:, None] * self.table.T()[: len(prevalence)]).sum(0) / prevalence.sum()
        self.finding_prior = nn.Parameter(base.detach().logit())
        views = torch.zeros(VIEWS, M, dtype=torch.bool)
        views[0] = True
        self.register_buffer("views", views)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    # What is observed -> latent -> probabilities

    def embed_concepts(self) -> Tensor:
        """K [k, d_h]; the same for every patient."""
        return self.concepts(self.encoders.encoders[self.text] if self.text else None)

    def encode(self, batch: Batch, K: Tensor | None = None) -> Encoded:
        """K: from `embed_concepts`, for who encodes many batches with the same weights."""
        return self.inform(self.encoders(batch), K)

    def inform(self, encoded: Encoded, K: Tensor | None = None) -> Encoded:
        """What the encoders gave, with the concepts and the evidence for each finding."""
        K = self.embed_concepts() if K is None else K
        evidence = self.evidence(encoded.tokens, encoded.segments, self.R(K[self.finding_rows]))
        return encoded._replace(evidence=evidence, K=K)

    def total_evidence(self, encoded: Encoded) -> Tensor:
        """lambda(m) [B, F], nats: summed over what is present, bounded smoothly."""
        assert encoded.evidence is not None
        total = encoded.evidence.masked_fill(~encoded.presence()[..., None], 0).sum(1)
        return EVIDENCE_LIMIT * torch.tanh(total / EVIDENCE_LIMIT)

    def observe(self, encoded: Encoded, integration: Integration | None = None) -> Tensor:
        """x(m) = (Z(m), lambda(m)) [B, d_h + F]."""
        Z = (integration or self.integration)(encoded)
        return torch.cat([Z, self.total_evidence(encoded) / EVIDENCE_UNIT], dim=-1)

    def logits(self, x: Tensor) -> Tensor:
        """x [..., d_h + F] -> [..., C]: prevalence, the disease table on the evidence, and a head on Z."""
        Z, evidence = x[..., : self.config.d_h], x[..., self.config.d_h :] * EVIDENCE_UNIT
        likelihood = self.table(evidence)
        if self.task.multilabel:  # against the background row: the finding's rate without the disease
            likelihood = likelihood[..., :-1] - likelihood[..., -1:]
        return self.log_prior + self.prior_shift + likelihood + self.head(Z)

    def probability(self, x: Tensor) -> Tensor:
        logits = self.logits(x)
        return logits.sigmoid() if self.task.multilabel else logits.softmax(-1)

    # Training

    @torch.no_grad()
    def fit(self, batch: Batch) -> None:
        """Scales of the values, and the most frequent combinations of modalities of the training
        patients: only these can be imagined, because nothing else was ever seen together."""
        self.encoders.fit(batch)
        views, counts = batch.presence.unique(dim=0, return_counts=True)
        views = views[counts.argsort(descending=True, stable=True)][:VIEWS]
        self.views.zero_()
        self.views[: len(views)] = views

    def held_by(self, m: Tensor) -> Tensor:
        """Which combinations of the training patients hold m, bool [..., M] -> [..., VIEWS]."""
        return (self.views | ~m.unsqueeze(-2)).all(-1)

    def fullest(self, m: Tensor) -> Tensor:
        """The largest combination seen in training that holds m, bool [..., M]; m itself if none does."""
        holds = self.held_by(m)
        best = (self.views.sum(-1) * holds).argmax(-1)  # the more frequent of equals
        return torch.where(holds.any(-1, keepdim=True), self.views[best], m)

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """L_class, L_diff, L_cons and, where findings are labelled, L_find (see docs/concepts.md)."""
        present = encoded.presence()
        student = encoded.keep(kept)
        x_m = self.observe(student)
        x_0, view, complete = self._targets(encoded, present, kept & present, batch)
        x_hat, diff = self._denoise(x_0, x_m, view, student, batch)
        classified = self._class_loss(self._settle_evidence(x_m, batch), batch, weight)
        imagined = self._class_loss(x_hat.detach(), batch, weight)
        losses = {
            "class": (classified + imagined) / 2,
            "diff": diff,
            "cons": (x_m[:, : self.config.d_h] - complete).square().mean(),
        }
        if batch.findings.shape[1]:
            losses["find"] = self._finding_loss(student, batch)
        return losses

    def _settle_evidence(self, x: Tensor, batch: Batch) -> Tensor:
        """x with its evidence cut off from the class loss for patients whose findings are labelled.

        Evidence is to be what it says, a likelihood ratio. Left to the class loss as well, it bends
        until the disease table fits, and most where the table is wrong.
        """
        Z, evidence = x.split([self.config.d_h, x.shape[-1] - self.config.d_h], dim=-1)
        labelled = batch.findings_known.any(1, keepdim=True)
        return torch.cat([Z, torch.where(labelled, evidence.detach(), evidence)], dim=-1)

    def _class_loss(self, x: Tensor, batch: Batch, weight: Tensor) -> Tensor:
        """Weighted cross entropy at x [B, D] or [B, R, D], mean over patients; what is unknown counts 0."""
        logits = self.logits(x if x.dim() == 3 else x[:, None])  # [B, R, C]
        target = batch.label[:, None].expand_as(logits)
        if self.task.multilabel:
            loss = binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
            each = mean_where(loss, batch.label_known)
        else:
            loss = cross_entropy(logits.transpose(1, 2), target.transpose(1, 2), reduction="none").mean(1)
            each = loss * batch.label_known.all(1)
        return (each * weight).mean()

    def _finding_loss(self, student: Encoded, batch: Batch) -> Tensor:
        """Evidence must be worth what it claims: summed over what is kept, and each modality alone."""
        assert student.evidence is not None
        each = student.evidence  # [B, M, F]
        counts = batch.findings_known[:, None] & student.presence()[..., None]
        alone = binary_cross_entropy_with_logits(
            self.finding_prior + each.masked_fill(~counts, 0),
            batch.findings[:, None].expand_as(each),
            reduction="none",
        )
        together = binary_cross_entropy_with_logits(
            self.finding_prior + self.total_evidence(student), batch.findings, reduction="none"
        )
        return (mean_where(alone, counts) + mean_where(together, batch.findings_known)).mean()

    @torch.no_grad()
    def _targets(
        self, encoded: Encoded, present: Tensor, kept: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's x_0 under a view m' that holds at least what is kept: half the time all that
        was observed, else something in between (so that one modality more can be asked for).
        Returns x_0 [B, D], view [B, M], and Z of all that was observed [B, d_h]."""
        uniform = self._uniform(batch, 1 + present.shape[1], stream=1)
        more = (uniform[:, :1] < 0.5) | (uniform[:, 1:] < 0.5)
        view = present & (kept | more)
        x_0 = self.observe(encoded.keep(view), self.teacher)
        return x_0, view, self.teacher(encoded)

    def _denoise(
        self, x_0: Tensor, x_m: Tensor, view: Tensor, student: Encoded, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """L_diff at NOISINGS noise levels per patient, and the one-step estimates of x_0 [B, R, D]."""
        (B, D), R = x_0.shape, NOISINGS
        t = (self._uniform(batch, R, stream=2) * self.config.T).long().clamp(max=self.config.T - 1)
        key, _, patient = self._stream(batch, stream=3)
        rows = (patient[:, None] * R + torch.arange(R, device=t.device)) % 2**32
        condition = self._condition(x_m, view, student)
        x_0 = x_0.repeat_interleave(R, 0)
        loss, x_hat = diffusion_loss(
            self.denoiser, self.schedule, x_0, t.view(-1), condition, key=key, row_ids=rows.view(-1)
        )
        return x_hat.view(B, R, D), loss.mean()

    def _condition(self, x_m: Tensor, view: Tensor, encoded: Encoded) -> Condition:
        return self.denoiser.condition_on(x_m, encoded.presence(), view, encoded.tokens, encoded.segments)

    def _stream(self, batch: Batch, stream: int) -> tuple[Tensor, Tensor, Tensor]:
        """Philox key, step and rows for random numbers that depend on the patient and the training
        step alone, not on the batch, the process or the order."""
        rows = patient_numbers(batch.ids, self.step.device)
        return torch.stack([torch.full_like(self.step, stream), self.step]), torch.zeros_like(rows), rows

    def _uniform(self, batch: Batch, n: int, stream: int) -> Tensor:
        words = philox_row_words(*self._stream(batch, stream), n)
        return (words.double() / 2**32).to(self.log_prior.dtype)

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in evaluation mode: its targets have no dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

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
        """Draws of x under the view m', bool [B, M] (the fullest that training knows, unless given)
        -> [B, S, d_h + F]. Draw s uses the same noise for every patient, so an answer depends neither
        on the batch nor on its order."""
        m, x_m = encoded.presence(), self.observe(encoded)
        condition = self._condition(x_m, self.fullest(m) if view is None else view | m, encoded)
        B, D = x_m.shape
        key = philox_key(seed, device=x_m.device)
        row_ids = torch.arange(draws, device=x_m.device).repeat(B)
        x = sample_ddpm(
            self.denoiser,
            self.schedule,
            pure_noise(x_m.new_empty(B * draws, D), key, row_ids),
            condition,
            key=key,
            row_ids=row_ids,
            spread=condition.spread.repeat_interleave(draws, 0),
        )
        return x.view(B, draws, D)

    @torch.no_grad()
    def diagnose(self, encoded: Encoded, *, draws: int | None = None, seed: int = 0) -> Diagnosis:
        """The mean over `draws` (S, the config's unless given; at least 2: one draw is no diagnosis)."""
        draws = self.config.draws if draws is None else draws
        if draws < 2:
            raise Refusal(f"diagnose: draws is {draws}, expected at least 2")
        x = self.imagine(encoded, draws=draws, seed=seed)
        p = self.probability(x)  # [B, S, C]
        evidence = x[..., self.config.d_h :] * EVIDENCE_UNIT
        if self.task.multilabel:
            findings = torch.sigmoid(self.finding_prior + evidence)
        else:
            findings = self.table.findings(evidence, p)
        return Diagnosis(p.mean(1), p.transpose(0, 1), findings.mean(1))


def mean_where(x: Tensor, known: Tensor) -> Tensor:
    """The mean of each patient's known entries, x and known [B, ...] -> [B]; 0 where none is known."""
    return (x * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def log_prevalence(concepts: ConceptTable) -> Tensor:
    """float32 [k]; a concept of unknown prevalence counts as an average one."""
    log = torch.from_numpy(concepts.prevalence).float().clamp(min=1e-9).log()
    known = ~log.isnan()
    return torch.where(known, log, log[known].mean() if known.any() else torch.zeros(()))


def class_frequencies(task: Task, concepts: ConceptTable) -> Tensor:
    """P(finding | class) in the task's order, NaN where nothing is stated; [C, F], and a last row
    for the absence of every class if the task is multilabel."""
    diseases = {concepts.name[i]: n for n, i in enumerate(concepts.indices("disease"))}
    findings = {concepts.name[i]: n for n, i in enumerate(concepts.indices("finding"))}
    rows = len(task.classes) + task.multilabel
    frequency = torch.full((rows, len(task.findings)), torch.nan)
    for c, name in enumerate(task.classes):
        for f, finding in enumerate(task.findings):
            if name in diseases:
                frequency[c, f] = float(concepts.frequency[diseases[name], findings[finding]])
    return frequency
