"""What training encodes: what it learns from, with a gradient, and of the rest what a teacher sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustmdiff.encoders.tensors import hide
from robustmdiff.models import MODELS
from robustmdiff.nn.dropout import give_to_patients, of_batch


@pytest.fixture
def half(study):
    """[13, M]: about half of what is there."""
    shape = len(study.patients), len(study.cohort.task.modalities)
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5


def gradients(losses, model):
    model.zero_grad(set_to_none=True)
    sum(losses).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_hidden_is_as_if_it_had_never_been_there(study, half):
    """Texts of several lengths among them, which lie end to end."""
    names = study.cohort.task.modality_names
    without = [
        replace(p, modalities={n: x for n, x in p.modalities.items() if keeps[names.index(n)]})
        for p, keeps in zip(study.patients, half.tolist(), strict=True)
    ]
    found, expected = hide(study.collator(study.patients), half), study.collator(without)
    assert torch.equal(found.presence, expected.presence)
    for name in names:
        pairs = zip(found.inputs[name], expected.inputs[name], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name


@pytest.mark.parametrize("kind", ["robustmdiff", "joint", "dropout_transformer", "late_fusion"])
def test_the_losses_are_those_of_encoding_everything(study, half, kind):
    """With dropout, and with their gradients: it is a saving, not another objective."""
    torch.manual_seed(0)
    config = replace(study.config, dropout=0.3)
    kind, options = ("robustmdiff", {"denoiser": True}) if kind == "joint" else (kind, {})
    model = MODELS[kind].build(
        study.cohort.task, config, concepts=study.cohort.concepts(), tokenizer=study.tokenizer, **options
    )
    give_to_patients(model)
    model.train()
    batch = study.collator(study.patients)

    def run(encode):
        with of_batch(7, batch.ids):
            losses = model.losses(encode(), batch, half, torch.ones_like(batch.label))
        return torch.stack([torch.as_tensor(x) for x in losses]).detach(), gradients(losses, model)

    looked, g = run(lambda: model.look(batch, half))
    everything, expected = run(lambda: model.encode(batch))
    torch.testing.assert_close(looked, everything, rtol=1e-5, atol=1e-6)
    assert g.keys() == expected.keys()
    sizes = {name: float(gradient.abs().max()) for name, gradient in expected.items()}
    rounding = 1e-7 * max(sizes.values())  # all that there is of some, such as biases of keys
    for name, gradient in expected.items():
        torch.testing.assert_close(g[name], gradient, rtol=0, atol=1e-5 * sizes[name] + rounding, msg=name)


def test_the_teacher_is_asked_about_a_quarter_of_the_patients(study, half):
    """Another quarter in each step, and of the others nothing hidden is encoded; the mean of L_cons over the
    steps is that of everybody."""
    model, batch = study.model(denoiser=False).train(), study.collator(study.patients)
    B = len(study.patients)
    weight, found, times = torch.ones_like(batch.label), [], torch.zeros(B)
    assert (batch.presence & ~half).any()
    with torch.no_grad():
        everything = model.encode(batch)
        Z = model.observe(everything.keep(half))[:, : study.config.d_h]
        whole = float((Z - model.teacher(everything)).square().mean())
        for step in range(400):
            model.before_step(step)
            asked = model._asked(batch)
            times += asked > 0
            found.append(float(model.losses(everything, batch, half, weight).L_cons))
            if step < 4:
                assert torch.equal(model.look(batch, half).m, batch.presence & (half | (asked > 0)[:, None]))
    assert ((times / 400 - 0.25).abs() < 5 * (0.25 * 0.75 / 400) ** 0.5).all()
    error = torch.tensor(found).std() / 400**0.5
    assert abs(torch.tensor(found).mean() - whole) < 5 * error


def test_what_is_hidden_is_not_learned_from(study):
    model, batch = study.model().train(), study.collator(study.patients)
    kept = torch.ones_like(batch.presence)
    kept[:, study.cohort.task.modality_names.index("ct")] = False
    found = gradients(model.losses(model.look(batch, kept), batch, kept, torch.ones_like(batch.label)), model)
    assert not any(name.startswith("encoders.encoders.ct") for name in found)
    assert any(name.startswith("encoders.encoders.mri") for name in found)


def test_a_baseline_never_reads_what_is_hidden(study, half):
    model = MODELS["dropout_transformer"].build(
        study.cohort.task, study.config, concepts=study.cohort.concepts(), tokenizer=study.tokenizer
    )
    batch = study.collator(study.patients)
    names = study.cohort.task.modality_names
    poisoned = {
        name: packed._replace(
            pixels=packed.pixels.masked_fill(
                ~half[packed.rows, names.index(name)][:, None, None, None], torch.nan
            )
        )
        for name, packed in batch.inputs.items()
        if name in ("xray", "ct", "mri")
    }
    bad = replace(batch, inputs={**batch.inputs, **poisoned})
    weight = torch.ones_like(batch.label)
    a, b = (model.losses(model.look(each, half), each, half, weight) for each in (batch, bad))
    assert torch.equal(a.L_class, b.L_class)
