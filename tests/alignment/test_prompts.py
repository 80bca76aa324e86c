from dataclasses import replace

import pytest
import torch

from robustmdiff.alignment.prompts import PromptEncoders, alone
from robustmdiff.data.modality import Modality
from robustmdiff.encoders.tensors import tensors
from robustmdiff.refusal import Refusal


@pytest.fixture(scope="module")
def model(study, sizes):
    torch.manual_seed(0)
    return PromptEncoders(study.task, sizes, d=5).eval()


def test_prompts_are_unit_vectors_of_what_is_present(study, model):
    h, m = model(study.collator(study.patients))
    assert h.shape == (13, 6, 5)
    assert m.tolist() == [[p.has(n) for n in study.task.modality_names] for p in study.patients]
    assert not m.all()
    assert h[m].norm(dim=-1).sub(1).abs().max() < 1e-6
    assert not h[~m].any()


def test_a_prompt_is_the_projected_summary_the_mean_of_its_tokens_and_the_shortcut(study, model):
    batch = tensors(study.collator(study.patients))
    h, m = model(batch)
    for i, name in enumerate(study.task.modality_names):
        assert m[:, i].any()
        encoder, seen = model.encoders.encoders[name], batch.inputs[name]
        tokens, lengths = encoder(seen)
        each = tokens.double().split(lengths.tolist())
        z = torch.stack([torch.cat([x[0], x.mean(0)]) for x in each]) @ model.project[name].weight.double().T
        if name == "text":
            table = encoder.bert.get_input_embeddings().weight.double()
            ids = seen.input_ids.split(lengths.tolist())
            words = torch.stack([table[own].sum(0) * (table.shape[1] / len(own)) ** 0.5 for own in ids])
            z = z + words @ model.shortcuts[name].project.weight.double().T
        elif study.task.modality(name).kind == "image":
            places = torch.stack([x.flatten() for x in each])
            z = z + places @ model.shortcuts[name].project.weight.double().T
        assert torch.allclose(h[m[:, i], i].double(), z / z.norm(dim=-1, keepdim=True), atol=1e-6), name
    assert set(model.shortcuts) == {"text", "xray", "ct", "mri"}


def test_what_is_absent_is_never_read(study, model):
    """Not by the pass, nor by any gradient: what has no encoder may be NaN, and costs nothing."""
    few = PromptEncoders(study.task, model.config, d=5, only=("text", "xray"))
    batch = study.collator(study.patients)
    pixels = torch.full_like(batch.inputs["ct"].pixels, torch.nan)
    poisoned = replace(batch, inputs=batch.inputs | {"ct": batch.inputs["ct"]._replace(pixels=pixels)})
    seen = []
    for given in (batch, poisoned):
        few.zero_grad()
        h, m = few.eval()(given)
        h.square().mul(torch.arange(5)).sum().backward()
        seen.append([h.detach(), m, *(p.grad for p in few.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert not seen[1][1][:, [study.task.modality_names.index("ct")]].any()
    assert set(few.names) == {"text", "xray"}
    assert not any("ct" in name.split(".") for name in few.state_dict())


def test_a_patient_without_anything_has_no_prompt_and_no_gradient(study, model):
    nobody = alone(study.patients[0], [])
    h, m = model(study.collator([nobody, nobody]))
    assert not h.any()
    assert not m.any()
    h.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


def test_embedding_patients_is_the_model_in_evaluation_mode(study, model):
    whole = model(study.collator(study.patients))
    model.train()
    h, m = model.embed(study.patients, study.tokenizer)
    assert model.training
    model.eval()
    assert torch.allclose(h, whole.h, atol=1e-6)
    assert torch.equal(m, whole.m)
    assert model.embed([], study.tokenizer).h.shape == (0, 6, 5)


def test_encoders_join_and_are_shared(study, sizes):
    """A task may have got a modality more."""
    xray = study.task.modality("xray")
    wider = replace(study.task, modalities=(*study.task.modalities, replace(xray, name="lateral")))
    known = PromptEncoders(study.task, sizes, d=5, only=("text", "xray"))
    both = known.joined(PromptEncoders(wider, sizes, d=5, only=("lateral",)))
    assert set(both.names) == {"text", "xray", "lateral"}
    assert both.task == wider
    assert both.encoders.encoders["text"] is known.encoders.encoders["text"]
    h, m = both.embed([alone(p, ("xray",)) for p in study.patients], study.tokenizer)
    before = known.eval().embed([alone(p, ("xray",)) for p in study.patients], study.tokenizer)
    assert torch.equal(h[:, :6], before.h)
    assert not m[:, 6].any()


def other_window(task):
    return replace(
        task,
        modalities=tuple(replace(m, window=(0.0, 7.0)) if m.name == "xray" else m for m in task.modalities),
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda task, sizes: (task, sizes, 6), r"d is 6, expected 5, as of the encoders that are aligned"),
        (lambda task, sizes: (task, replace(sizes, d_h=4), 5), r"config is EncoderConfig\(d_h=4"),
        (lambda task, sizes: (other_window(task), sizes, 5), r"modality 'xray' is .*7\.0.*expected"),
        (
            lambda task, sizes: (replace(task, modalities=(Modality("note", "text"),)), sizes, 5),
            r"the aligned encoders: unknown modality 'xray', expected one of note",
        ),
    ],
    ids=["width", "sizes", "window", "task"],
)
def test_what_does_not_go_together_is_refused(study, sizes, change, says):
    known = PromptEncoders(study.task, sizes, d=5, only=("xray",))
    task, config, d = change(study.task, sizes)
    with pytest.raises(Refusal, match=says):
        known.joined(PromptEncoders(task, config, d=d, only=()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"d": 0}, "PromptEncoders: d is 0, expected at least 1"),
        ({"only": ["x-ray"]}, r"unknown modality 'x-ray'.*expected one of xray, ct"),
    ],
)
def test_encoders_that_cannot_be_meant_are_refused(study, sizes, options, says):
    with pytest.raises(Refusal, match=says):
        PromptEncoders(study.task, sizes, **options)
