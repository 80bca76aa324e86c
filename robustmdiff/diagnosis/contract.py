"""What every diagnosis model offers to the trainer, the evaluation and the explanations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.answer import INTERVAL
from robustmdiff.data.batch import Batch
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.losses import Losses
from robustmdiff.diagnosis.temperature import corrected
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.encoders.tensors import hide
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import TrainConfig

HEAD, DRAWS = "head", "draws"  # names of answers


class Logits(NamedTuple):
    """What a model says of B patients as it was trained: too sure perhaps, and with the weights of rare
    classes in it.

    logits    [B, C], or [S, B, C] of S draws
    findings  the probability of each finding [..., B, F], from that of the classes [..., B, C]; None where
              nothing is said of findings
    """

    logits: Tensor
    findings: Callable[[Tensor], Tensor] | None = None


class Diagnosis(NamedTuple):
    """probability [B, C]; draws [S, B, C] or None where none were made; findings [B, F], the probability of
    each finding, or None; answer, which of the model's answers the probability is: a head's name, or "draws",
    their mean."""

    probability: Tensor
    draws: Tensor | None = None
    findings: Tensor | None = None
    answer: str = HEAD

    def interval(self) -> tuple[Tensor, Tensor] | None:
        """5 % and 95 % of the draws, [B, C] each: what the missing modalities could still change."""
        if self.draws is None:
            return None
        low, high = torch.quantile(self.draws.float().cpu(), torch.tensor(INTERVAL, device="cpu"), dim=0)
        return low, high


class DiagnosisModel(nn.Module, ABC):
    """A model of a task. `losses` and `classify` are its own; the rest has defaults, those of a model that
    encodes with `encoders`, keeps no teacher, makes no draws and knows no concepts. `diagnose` is what it is
    asked by.

    answer         which of `answers` it gives: chosen on the validation patients (`choose_answer`) and saved
                   with the model.
    encoders       None for a model that reads no value; it then has an `encode` of its own.
    concept_table  saved with the model, where it has one.
    renamed        weights that an earlier version saved under another name: then -> now.
    added          weights that an earlier version did not save; they are then as they are made.
    log_weight     [C], so much higher has training the logits (`training.rare`); 0 before it.
    temperature, undone
                   T_k and a_k of `probability`, [M + 1], k the number of modalities visible; 1 until they are
                   fitted (`diagnosis.temperature`).
    """

    answer: str = HEAD
    concept_table: ConceptTable | None = None
    renamed: ClassVar[Mapping[str, str]] = {}
    added: ClassVar[tuple[str, ...]] = ("log_weight", "temperature", "undone")
    log_weight: Tensor
    temperature: Tensor
    undone: Tensor

    def __init__(self, task: Task, config: ModelConfig, encoders: ModalityEncoders | None) -> None:
        super().__init__()
        self.task, self.config, self.labels = task, config, task.labels
        self.encoders = encoders
        self.register_buffer("log_weight", torch.zeros(len(task.classes)))
        self.register_buffer("temperature", torch.ones(len(task.modalities) + 1))
        self.register_buffer("undone", torch.ones(len(task.modalities) + 1))

    def prepare(
        self,
        patients: Sequence[Patient],
        collator: Callable[[Sequence[Patient]], Batch],
        config: TrainConfig,
        folder: Path,
        resume: bool,
        device: torch.device | None,
    ) -> None:
        """Called before `fit` with all training patients: what a model trains beforehand, in runs of their
        own below `folder`, which go on where they stopped with `resume`. By default nothing."""

    def fit(self, batch: Batch) -> None:
        """Called once before training with (a sample of) the training patients: scales and the like."""
        if self.encoders is not None:
            self.encoders.fit(batch)

    def encode(self, batch: Batch) -> Encoded:
        """What everything else starts from; hiding a modality afterwards (`Encoded.keep`) costs nothing."""
        assert self.encoders is not None
        return self.encoders(batch)

    def look(self, batch: Batch, kept: Tensor) -> Encoded:
        """What `losses` is given: of a batch what the student may see, kept bool [B, M], and whatever else
        the model's losses ask about; by default nothing."""
        return self.encode(hide(batch, kept))

    @abstractmethod
    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """The terms of L_total, each a mean over the patients of the batch; weight [B, C] of the cells of
        L_class; `kept` bool [B, M] is what the student may see of what is encoded."""

    @abstractmethod
    def classify(self, encoded: Encoded) -> Logits:
        """What the head says of what is visible, without a draw."""

    def imagined(self, encoded: Encoded, *, draws: int, seed: int) -> Logits | None:
        """What the head says of `draws` ways in which the rest may look, logits [S, B, C]; None of a model
        that makes no draws."""
        return None

    @property
    def heads(self) -> Mapping[str, Callable[[Encoded], Logits]]:
        """What can answer without a draw, by name."""
        return {HEAD: self.classify}

    @property
    def answers(self) -> tuple[str, ...]:
        """What `answer` may be: a head, or DRAWS of a model that makes draws."""
        return tuple(self.heads)

    def say(self, answer: str, encoded: Encoded, *, draws: int, seed: int = 0) -> Logits:
        """The logits of one of `answers`, as trained."""
        if answer in self.heads:
            return self.heads[answer](encoded)
        imagined = self.imagined(encoded, draws=draws, seed=seed)
        assert imagined is not None
        return imagined

    def probability(self, logits: Tensor, visible: Tensor) -> Tensor:
        """p(y | Z) of the paper: the softmax of logits / T_k - a_k log w, for many labels its sigmoid.

        logits [..., B, C] as trained, visible int [B] the number k of modalities -> [..., B, C].
        """
        numbers = self.temperature[visible], self.undone[visible]
        return self.labels.probability(corrected(logits, *numbers, self.log_weight))

    def answering(self, draws: int | None) -> str:
        """Which of `answers` `diagnose` gives with so many draws."""
        return HEAD if self.answer == DRAWS and draws == 0 else self.answer

    def direct(self, encoded: Encoded) -> Tensor:
        """p [B, C] as it is answered without a draw; keeps gradients."""
        return self.probability(self.heads[self.answering(draws=0)](encoded).logits, encoded.m.sum(1))

    @torch.no_grad()
    def diagnose(self, encoded: Encoded, *, draws: int | None = None, seed: int = 0) -> Diagnosis:
        """What is visible -> the probability of each class.

        draws  at least 2: they are made, whether they answer or not; 0: none are, and a head answers. None:
               as many as the answer takes, those of the config where the draws answer, else none. A model
               that makes no draws ignores it.

        A patient of whom nothing is visible has the task's prevalence, as probability and in every draw.
        """
        if draws is None:
            draws = self.config.draws if self.answer == DRAWS else 0
        if draws < 0 or draws == 1:
            raise Refusal(f"diagnose: draws is {draws}, expected 0 or at least 2")
        encoded = self.observed(encoded)
        imagined = self.imagined(encoded, draws=draws, seed=seed) if draws else None
        return self.answered(encoded, self.answering(draws), imagined)

    def answered(self, encoded: Encoded, answer: str, imagined: Logits | None) -> Diagnosis:
        """The diagnosis by one of `answers`, beside what was imagined."""
        visible = encoded.m.sum(1)
        drawn = None if imagined is None else self._diagnosis(imagined, visible, DRAWS)
        if drawn is not None and answer == DRAWS:
            found = drawn
        else:
            found = self._diagnosis(self.heads[answer](encoded), visible, answer)
            found = found._replace(draws=None if drawn is None else drawn.draws)
        known = (visible > 0)[:, None]
        prevalence = found.probability.new_tensor(self.task.prevalence)
        return found._replace(
            probability=found.probability.where(known, prevalence),
            draws=None if found.draws is None else found.draws.where(known, prevalence),
        )

    def _diagnosis(self, said: Logits, visible: Tensor, answer: str) -> Diagnosis:
        """The mean over the draws, where these are draws."""
        p = self.probability(said.logits, visible)
        findings = None if said.findings is None else said.findings(p)
        if answer != DRAWS:
            return Diagnosis(p, None, findings, answer)
        return Diagnosis(p.mean(0), p, None if findings is None else findings.mean(0), answer)

    def observe(self, encoded: Encoded) -> Tensor | None:
        """The latent [B, D] of what is visible, by which patients unlike the training data are told; None
        for a model that has none."""
        return None

    def observed(self, encoded: Encoded) -> Encoded:
        """The same with its latent, for who asks several times about what is visible."""
        return encoded._replace(x=self.observe(encoded))

    def before_step(self, key: int) -> None:
        """Called before each optimiser step with the key that its noise is to be drawn by, the same on
        every process."""

    def after_step(self) -> None:
        """Called after each optimiser step; an EMA teacher moves there."""
