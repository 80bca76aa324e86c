"""A small study and a small model, shared by the tests of the diagnosis model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from robustmdiff.data.batch import Batch
from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import tokenize, train_tokenizer
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.tensors import tensors
from robustmdiff.models import NAME_TOKENS


@dataclass
class SmallStudy:
    cohort: Any
    task: Task
    patients: list[Patient]
    tokenizer: Any
    collator: Callable[[Sequence[Patient]], Batch]  # of tensors
    config: ModelConfig

    def model(self, *, denoiser: bool = True) -> RobustMDiff:
        torch.manual_seed(5)
        model = RobustMDiff(
            self.task,
            self.config,
            self.cohort.concepts(),
            lambda name: tokenize(self.tokenizer, name, NAME_TOKENS)[0],
            denoiser=denoiser,
        )
        with torch.no_grad():  # heads that start at zero would hide what flows into them
            for parameter in (model.head.weight, model.evidence.b):
                parameter.normal_(std=0.3)
            if model.denoiser is not None:
                model.denoiser.leave.weight.normal_(std=0.3)
        return model.eval()

    def of(self, names: Sequence[str]) -> SmallStudy:
        """The same with these modalities alone."""
        task = replace(self.task, modalities=tuple(map(self.task.modality, names)))
        patients = [replace(p, modalities={n: p.modalities.get(n) for n in names}) for p in self.patients]
        return replace(self, task=task, patients=patients, collator=_tensors_of(task, self.tokenizer))


def small_study(**options: Any) -> SmallStudy:
    cohort = make_cohort(CohortConfig(patients=13, image_size=16, **options))
    patients = list(cohort.patients)
    tokenizer = train_tokenizer(
        [p.modalities["text"] for p in patients if p.has("text")],
        vocab_size=150,  # type: ignore[misc]
    )
    config = ModelConfig(
        d_h=8,
        layers=1,
        heads=2,
        patch=8,
        width=20,
        depth=1,
        T=60,
        steps=3,
        draws=5,
        dropout=0.0,
        max_tokens=33,
        vocabulary=tokenizer.get_vocab_size(),
    )
    collator = _tensors_of(cohort.task, tokenizer)
    return SmallStudy(cohort, cohort.task, patients, tokenizer, collator, config)


def _tensors_of(task: Task, tokenizer: Any) -> Callable[[Sequence[Patient]], Batch]:
    collator = Collator(task, tokenizer, 33)
    return lambda few: tensors(collator(few))


@pytest.fixture(scope="session")
def make_study():
    return small_study


@pytest.fixture(scope="session")
def study() -> SmallStudy:
    return small_study(missingness="mcar", rate=0.4, cell_rate=0.2)


@pytest.fixture
def model(study: SmallStudy) -> RobustMDiff:
    return study.model()
