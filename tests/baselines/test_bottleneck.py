from __future__ import annotations

import dataclasses

import pytest
import torch

from robustmdiff.baselines.bottleneck import Bottleneck
from robustmdiff.refusal import Refusal


@pytest.fixture
def model(study):
    torch.manual_seed(0)
    model = Bottleneck(study.cohort.task, study.config).eval()
    with torch.no_grad():
        model.diagnosis.weight.normal_()
        model.findings.b.normal_()
    return model


def test_the_diagnosis_follows_from_the_sum_of_what_modalities_say_of_findings(model, study):
    encoded = model.encode(study.collator(study.patients))
    found = model.classify(encoded).logits
    for b, patient in enumerate(study.patients):
        total = torch.zeros(len(study.cohort.task.findings))
        for i, name in enumerate(study.cohort.task.modality_names):
            if patient.has(name):
                total += encoded.H[b, i] @ model.findings.W[i] + model.findings.b[i]
        expected = model.diagnosis.weight @ total + model.diagnosis.bias
        torch.testing.assert_close(found[b], expected, rtol=1e-4, atol=1e-4)


def test_the_head_does_not_train_what_its_concepts_are_read_from(model, study):
    """The transformer's own diagnosis and the findings do."""
    batch = study.collator(study.patients)
    kept, weight = torch.ones_like(batch.presence), torch.ones_like(batch.label)
    with torch.no_grad():
        model.head.weight.zero_()  # so that nothing of L_class passes the transformer
    model.losses(model.encode(batch), batch, kept, weight).L_class.backward()
    assert model.findings.W.grad is None
    assert model.diagnosis.weight.grad.abs().max() > 0
    encoders = [p.grad for p in model.encoders.parameters() if p.grad is not None]
    assert all(gradient.abs().max() == 0 for gradient in encoders)


def test_a_task_without_findings_is_refused(study):
    task = dataclasses.replace(study.cohort.task, findings=())
    with pytest.raises(Refusal, match="the task's findings are none, expected at least one"):
        Bottleneck(task, study.config)
