"""An untrained model, one patient of whom much is known, and what is explained of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.explanation.patient_page import explain_patient
from robustmdiff.knowledge.concepts import ConceptTable
from tests.explanation.ward import NOTE, TASK


@pytest.fixture(scope="session")
def concept_table() -> Callable[[Task], ConceptTable]:
    """concept_table(task): an ontology of its three classes and two findings."""

    def make(task: Task) -> ConceptTable:
        names = task.classes + task.findings
        return ConceptTable(
            id=names,
            name=names,
            definition=("",) * 5,
            kind=("disease",) * 3 + ("finding",) * 2,
            prevalence=np.full(5, 0.2, np.float32),
            source=np.array([1, 2, 3]),
            target=np.array([3, 4, 1]),
            relation=np.array([0, 0, 1]),
            relations=("has_phenotype", "phenotype_of"),
            frequency=np.array([[0.1, 0.1], [0.8, 0.2], [0.5, 0.9]], np.float32),
        )

    return make


@pytest.fixture(scope="session")
def collator():
    return Collator(TASK, train_tokenizer([NOTE, "opacity of the lung, fever"], vocab_size=60), max_tokens=32)


@pytest.fixture(scope="session")
def model(collator, concept_table):
    torch.manual_seed(0)
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(
        d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=32, width=16, depth=1, steps=2
    )
    model = RobustMDiff(TASK, config, concept_table(TASK), denoiser=True)
    nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture(scope="session")
def patient():
    g = torch.Generator().manual_seed(0)
    return Patient(
        "p-7",
        {
            "xray": torch.rand(1, 16, 24, generator=g),
            "ct": 300 * torch.randn(3, 24, 16, generator=g),
            "mri": torch.rand(2, 16, 16, generator=g),
            "note": NOTE,
            "labs": {"CRP": 80.0, "sodium": 131.0, "sex": "female"},
        },
        labels={"pneumonia": True},
        source="ward.csv:12",
        age=61.0,
    )


@pytest.fixture(scope="session")
def explanation(model, patient, collator):
    return explain_patient(model, patient, collator, draws=8, seed=3, steps=8, checkpoint="runs/x/model")
