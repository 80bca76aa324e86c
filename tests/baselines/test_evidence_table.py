from __future__ import annotations

import dataclasses

import pytest
import torch

from robustmdiff.baselines.evidence_table import EvidenceTable
from robustmdiff.data.tokenizer import tokenize
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.models import NAME_TOKENS


@pytest.mark.parametrize("labelled", [True, False], ids=["findings", "classes where no finding is labelled"])
def test_it_is_robustmdiff_without_z_and_without_draws(study, labelled):
    """With the same weights, RobustMDiff's logits at x(m) = (anything, lambda(m)) while its head is 0."""
    task = study.cohort.task if labelled else dataclasses.replace(study.cohort.task, findings=())

    def build(kind):
        torch.manual_seed(0)
        concepts, config = study.cohort.concepts(), dataclasses.replace(study.config, class_evidence=True)
        return kind(task, config, concepts, lambda name: tokenize(study.tokenizer, name, NAME_TOKENS)[0])

    ours, model = build(RobustMDiff).eval(), build(EvidenceTable).eval()
    with torch.no_grad():
        for parameter in (ours.prior_shift, ours.log_tau, ours.evidence.b):
            parameter.normal_()
    weights = ours.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    batch = study.collator(study.patients)
    kept = torch.rand(batch.presence.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    with torch.no_grad():
        theirs, own = ours.encode(batch), model.encode(batch)
        expected = ours.classify(theirs.keep(kept)).logits
        torch.testing.assert_close(model.classify(own.keep(kept)).logits, expected, rtol=1e-5, atol=1e-5)
        arguments = batch, kept, torch.ones_like(batch.label)
        expected, found = ours.losses(theirs, *arguments).L_find, model.losses(own, *arguments).L_find
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
