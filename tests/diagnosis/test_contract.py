from __future__ import annotations

import dataclasses

import pytest
import torch

from robustmdiff.baselines.late_fusion import LateFusion
from robustmdiff.baselines.mask_only import MaskOnly
from robustmdiff.diagnosis.contract import Diagnosis, DiagnosisModel


def test_losses_and_posterior_are_a_models_own(study):
    class Neither(DiagnosisModel):
        pass

    with pytest.raises(TypeError, match=r"abstract.*losses.*posterior"):
        Neither(study.cohort.task, study.config, None)


def test_where_nothing_is_visible_the_answer_is_the_prevalence(study, monkeypatch):
    """And nowhere else; a model is asked for its own draws unless others are given."""
    model, batch = MaskOnly(study.cohort.task, study.config), study.collator(study.patients[:3])
    said, asked = torch.rand(5, 3, 12, generator=torch.Generator().manual_seed(0)), []

    def posterior(encoded, *, draws, seed):
        asked.append((draws, seed))
        return Diagnosis(said.mean(0), said, findings=said[0])

    monkeypatch.setattr(model, "posterior", posterior)
    kept = torch.ones_like(batch.presence)
    kept[1] = False
    found = model.diagnose(model.encode(batch).keep(kept))
    prevalence = torch.tensor(study.cohort.task.prevalence)
    assert torch.equal(found.probability[1], prevalence)
    assert torch.equal(found.draws[:, 1], prevalence.expand(5, -1))
    assert all(torch.equal(end[1], prevalence) for end in found.interval())
    assert torch.equal(found.probability[[0, 2]], said.mean(0)[[0, 2]])
    assert torch.equal(found.draws[:, [0, 2]], said[:, [0, 2]])
    assert torch.equal(found.findings, said[0])
    model.diagnose(model.encode(batch), draws=7, seed=3)
    assert asked == [(study.config.draws, 0), (7, 3)]


def test_a_model_that_says_no_more_has_the_defaults(study):
    """It encodes with its encoders, which learn the scales of values, and has no latent to compare."""
    fields = tuple(
        dataclasses.replace(f, reference=None) for f in study.cohort.task.modality("structured").fields
    )
    modalities = [
        dataclasses.replace(m, fields=fields) if m.name == "structured" else m
        for m in study.cohort.task.modalities
    ]
    task = dataclasses.replace(study.cohort.task, modalities=tuple(modalities))
    model, batch = LateFusion(task, study.config), study.collator(study.patients)
    before = model.encoders.encoders["structured"].centre.clone()
    model.fit(batch)
    assert not torch.equal(model.encoders.encoders["structured"].centre, before)
    encoded = model.encode(batch)
    assert encoded.m.shape == (13, len(task.modalities))
    assert model.observe(encoded) is None
    assert (model.concept_table, model.renamed) == (None, {})
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.before_step(7)
    model.after_step()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_without_encoders_has_nothing_to_fit(study):
    model, batch = MaskOnly(study.cohort.task, study.config), study.collator(study.patients)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.fit(batch)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.encode(batch).m.shape == (13, len(study.cohort.task.modalities))
