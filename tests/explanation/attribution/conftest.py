"""A patient on the fence, and a model every part of which says something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.config import ModelConfig
from tests.explanation.attribution.task import TASK, TEXT


@pytest.fixture(scope="session")
def collator():
    texts = [TEXT, "fever and cough", "opacities of the lungs", "no effusion"]
    return Collator(TASK, train_tokenizer(texts, vocab_size=60), max_tokens=48)


@pytest.fixture(scope="session")
def model(collator, patient, concept_table):
    """Untrained, every part of it saying something, and the patient on the fence: all classes alike,
    where what a part says moves a probability most."""
    torch.manual_seed(0)
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(
        d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=48, width=16, depth=1
    )
    model = RobustMDiff(TASK, config, concept_table(TASK), denoiser=True)
    nn.init.normal_(model.head.weight)
    model.eval()
    with torch.no_grad():
        model.prior_shift -= model.direct(model.encode(collator([patient])))[0].log()
    return model


@pytest.fixture(scope="session")
def patient():
    image = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(1))
    return Patient("p", {"xray": image, "note": TEXT, "labs": {"CRP": 80.0, "sex": "male", "age": 61.0}})
