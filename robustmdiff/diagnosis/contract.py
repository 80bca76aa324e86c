"""What every diagnosis model offers to the trainer, the evaluation and the explanations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.losses import Losses
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.labels import labels_of

INTERVAL = (0.05, 0.95)  # of the draws


class Diagnosis(NamedTuple):
    """probability [B, C], the mean over the draws; draws [S, B, C] or None for a model that
    makes none; findings [B, F], the probability of each finding, or None."""

    probability: Tensor
    draws: Tensor | None = None
    findings: Tensor | None = None

    def interval(self) -> tuple[Tensor, Tensor] | None:
        """5 % and 95 % of the draws, [B, C] each: what the missing modalities could still change."""
        if self.draws is None:
            return None
        low, high = torch.quantile(self.draws.float().cpu(), torch.tensor(INTERVAL, device="cpu"), dim=0)
        return low, high


class DiagnosisModel(nn.Module, ABC):
    """A model of a task. `losses` and `posterior` are its own; the rest has defaults, those of a model that
    encodes with `encoders`, keeps no teacher, draws no noise of its own and knows no concepts. `diagnose` is
    what it is asked by.

    encoders       None for a model that reads no value; it then has an `encode` of its own.
    concept_table  saved with the model, where it has one.
    renamed        weights that an earlier version saved under another name: then -> now.
    """

    concept_table: ConceptTable | None = None
    renamed: ClassVar[Mapping[str, str]] = {}

    def __init__(self, task: Task, config: ModelConfig, encoders: ModalityEncoders | None) -> None:
        super().__init__()
        self.task, self.config, self.labels = task, config, labels_of(task)
        self.encoders = encoders

    def fit(self, batch: Batch) -> None:
        """Called once before training with (a sample of) the training patients: scales and the like."""
        if self.encoders is not None:
            self.encoders.fit(batch)

    def encode(self, batch: Batch) -> Encoded:
        """What everything else starts from; hiding a modality afterwards (`Encoded.keep`) costs nothing."""
        assert self.encoders is not None
        return self.encoders(batch)

    @abstractmethod
    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """The terms of L_total, each a mean over the patients of the batch in which patient b counts
        weight[b] of L_class; `kept` bool [B, M] is what the student may see of the batch."""

    @abstractmethod
    def posterior(self, encoded: Encoded, *, draws: int, seed: int) -> Diagnosis:
        """What follows from what is visible; `diagnose` overrules it where nothing is. A model that makes no
        draws ignores both numbers."""

    @torch.no_grad()
    def diagnose(self, encoded: Encoded, *, draws: int | None = None, seed: int = 0) -> Diagnosis:
        """What is visible -> the probability of each class, from `draws` draws, the config's unless given.

        A patient of whom nothing is visible has the task's prevalence, as probability and in every draw.
        """
        said = self.posterior(encoded, draws=self.config.draws if draws is None else draws, seed=seed)
        known = encoded.m.any(1, keepdim=True)  # [B, 1]
        prevalence = said.probability.new_tensor(self.task.prevalence)
        return said._replace(
            probability=said.probability.where(known, prevalence),
            draws=None if said.draws is None else said.draws.where(known, prevalence),
        )

    def observe(self, encoded: Encoded) -> Tensor | None:
        """The latent [B, D] of what is visible, by which patients unlike the training data are told; None
        for a model that has none."""
        return None

    def before_step(self, key: int) -> None:
        """Called before each optimiser step with the key that its noise is to be drawn by, the same on
        every process."""

    def after_step(self) -> None:
        """Called after each optimiser step; an EMA teacher moves there."""
