"""Every baseline keeps the contract of a diagnosis model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robustmdiff.baselines.dropout_transformer import DropoutTransformer
from robustmdiff.baselines.evidence_table import EvidenceTable
from robustmdiff.baselines.late_fusion import LateFusion
from robustmdiff.baselines.mask_only import MaskOnly
from robustmdiff.baselines.single_modality import SingleModality
from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.fitted import FittedModel
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.tensors import tensors
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.models import MODELS

NAMES = ("picture", "labs", "genes")
CONFIG = ModelConfig(d_h=24, layers=1, heads=3, patch=8, dropout=0.0)
CLASSES = ("well", "ill", "rare", "other", "fifth")


def make_task(multilabel=False):
    return Task(
        modalities=(
            Modality("picture", "image", shape=(1, 16, 8)),
            Modality("labs", "values", fields=(Field("crp", "mg/L", (0, 5)), Field("wbc", "10^9/L"))),
            Modality("genes", "values", fields=(Field("variant", categories=("AA", "AB", "BB")),)),
        ),
        classes=CLASSES,
        prevalence=(0.3, 0.2, 0.05, 0.4, 0.05),
        multilabel=multilabel,
        rare=("rare",),
        findings=("opacity", "leucocytosis"),
    )


def patient(i, has=(True, True, True), values=(7.0, 11.0), label=None, cells=2):
    g = torch.Generator().manual_seed(i)
    labs = {"crp": values[0] + i, "wbc": values[1] - i}
    label = i % len(CLASSES) if label is None else label
    return Patient(
        id=f"p{i}",
        modalities={
            "picture": torch.rand(1, 16, 8, generator=g) if has[0] else None,
            "labs": dict(list(labs.items())[:cells]) if has[1] else None,
            "genes": {"variant": "AB"} if has[2] else None,
        },
        labels={name: c == label for c, name in enumerate(CLASSES)},
        findings={"opacity": i % 2 == 0},
    )


PATTERNS = [(1, 1, 1), (0, 1, 0), (1, 0, 1), (0, 0, 0), (1, 1, 0), (0, 0, 1), (1, 0, 0)]
WARD = [patient(i, has) for i, has in enumerate(PATTERNS)]
KEPT = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 1]]).bool()
OPTIONS = {
    "single_modality": ({"name": "labs"}, {"name": "picture"}),
    "gradient_boosting": ({"trees": 7, "leaves": 3, "smallest_leaf": 2},),  # of a ward of seven
}
CASES = [
    (name, options) for name, kind in MODELS.items() if kind.baseline for options in OPTIONS.get(name, ({},))
]


@pytest.fixture(params=CASES, ids=lambda case: " ".join([case[0], str(case[1].get("name", ""))]))
def make(request):
    def build(multilabel=False, untrained=False):
        torch.manual_seed(0)
        name, options = request.param
        build = MODELS[name].build
        model = build(make_task(multilabel), CONFIG, concepts=concepts(), tokenizer=None, **options)
        if untrained:
            return model.eval()
        if isinstance(model, FittedModel):
            batch = collate(WARD, multilabel)
            model.learn([(batch, KEPT, torch.ones(7, 5)), (batch, batch.presence, torch.ones(7, 5))])
        with torch.no_grad():  # heads start at the prevalence: move everything off its start
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.eval()

    return build


def concepts():
    """The task's classes and findings; a rare disease often has opacity, of the others nothing is stated."""
    task = make_task()
    names, none = (*task.classes, *task.findings), np.empty(0, dtype=np.int64)
    k, frequency = len(names), np.full((len(task.classes), len(task.findings)), np.nan, dtype=np.float32)
    frequency[task.classes.index("rare"), task.findings.index("opacity")] = 0.8
    kind = ("disease",) * len(task.classes) + ("finding",) * len(task.findings)
    prevalence = np.full(k, np.nan, dtype=np.float32)
    return ConceptTable(names, names, ("",) * k, kind, prevalence, none, none, none, ("is_a",), frequency)


def collate(patients, multilabel=False):
    return tensors(Collator(make_task(multilabel))(patients))


def diagnose(model, patients, kept=None):
    encoded = model.encode(collate(patients, model.task.multilabel))
    return model.diagnose(encoded if kept is None else encoded.keep(kept)).probability


@pytest.mark.parametrize("multilabel", [False, True])
def test_every_pattern_gets_probabilities(make, multilabel):
    p = diagnose(make(multilabel), WARD)
    assert p.shape == (7, 5)
    assert ((p > 0) & (p < 1)).all()
    if not multilabel:
        torch.testing.assert_close(p.sum(1), torch.ones(7))


def test_before_training_the_answer_is_the_prevalence(make):
    model = make(untrained=True)
    if isinstance(model, EvidenceTable):  # it starts with what the encoders, untrained, say of findings
        with torch.no_grad():
            model.evidence.V.weight.zero_()
    p = diagnose(model, WARD)
    torch.testing.assert_close(p, torch.tensor(make_task().prevalence).expand(7, 5), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_nothing_present_is_answered_by_the_prevalence(make, multilabel):
    """After training, too: whatever is learned, and whether it was never there or is hidden."""
    model = make(multilabel)
    prevalence = torch.tensor(model.task.prevalence)
    nobody = [patient(i, (0, 0, 0)) for i in range(3)]
    assert torch.equal(diagnose(model, nobody), prevalence.expand(3, 5))
    hidden = diagnose(model, WARD, torch.zeros(7, 3, dtype=torch.bool))
    assert torch.equal(hidden, prevalence.expand(7, 5))
    assert diagnose(model, []).shape == (0, 5)


def test_hidden_is_the_same_as_never_there(make):
    model = make()
    without = [
        patient(i, [bool(h and k) for h, k in zip(PATTERNS[i], KEPT[i], strict=True)]) for i in range(7)
    ]
    torch.testing.assert_close(diagnose(model, WARD, KEPT), diagnose(model, without), atol=1e-6, rtol=1e-5)


def test_batch_mates_do_not_matter(make):
    model = make()
    together = diagnose(model, WARD)
    alone = torch.cat([diagnose(model, [one]) for one in WARD])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def gradients(model, encoded, batch):
    model.zero_grad()
    torch.manual_seed(1)
    weight = torch.linspace(0.5, 1.5, len(batch)).unsqueeze(1) * torch.ones_like(batch.label)
    losses = model.losses(encoded, batch, KEPT, weight)
    if isinstance(model, FittedModel):
        return losses, {}
    # only what stands behind the encoders: the poison is put where an encoder never writes
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    behind = {n: p for n, p in trained.items() if not n.startswith(("encoder", "present", "cells"))}
    found = torch.autograd.grad(sum(losses), list(behind.values()), allow_unused=True)
    return losses, dict(zip(behind, found, strict=True))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_absent_memory_is_never_read(make, poison):
    model = make()
    batch = collate(WARD)
    with torch.no_grad():
        clean = model.encode(batch)
    seen = clean.keep(KEPT)
    read = torch.zeros(len(clean.tokens), dtype=torch.bool)
    for start, length in seen.segments.reshape(-1, 2).tolist():
        read[start : start + length] = True
    bad = clean._replace(
        tokens=clean.tokens.masked_fill(~read[:, None], poison),
        H=clean.H.masked_fill(~seen.m[..., None], poison),
        evidence=None if clean.evidence is None else clean.evidence.masked_fill(~seen.m[..., None], poison),
    )
    assert torch.equal(
        model.diagnose(clean.keep(KEPT)).probability, model.diagnose(bad.keep(KEPT)).probability
    )
    (losses, expected), (bad_losses, got) = (gradients(model, e, batch) for e in (clean, bad))
    for name in ("L_class", "L_find"):
        assert torch.equal(*(torch.as_tensor(getattr(each, name)) for each in (losses, bad_losses))), name
    for name in expected:
        if expected[name] is not None:
            assert torch.isfinite(expected[name]).all(), name
            assert torch.equal(expected[name], got[name]), name


@pytest.mark.parametrize("multilabel", [False, True])
def test_losses_are_finite_and_reach_every_parameter(make, multilabel):
    model = make(multilabel).train()
    batch = collate(WARD, multilabel)
    losses = model.losses(model.encode(batch), batch, torch.ones(7, 3, dtype=torch.bool), torch.ones(7, 5))
    assert (losses.L_diff, losses.L_cons) == (0, 0)
    assert all(torch.as_tensor(loss).isfinite() for loss in (losses.L_class, losses.L_find))
    if isinstance(model, FittedModel):
        assert list(model.parameters()) == []
        return
    assert losses.L_class.dim() == losses.L_find.dim() == 0
    sum(losses).backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # of a generator that is trained beforehand
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    model.after_step()


@pytest.mark.parametrize("multilabel", [False, True])
def test_parts_of_a_batch_add_up_to_the_whole(make, multilabel):
    """Where labels are sparse, too, as a mean over known ones would not. Measured: 2.0e-7 of the value."""
    model = make(multilabel)
    ward = list(WARD)
    ward[1] = replace(ward[1], labels={}, findings={})
    ward[3] = replace(ward[3], labels={"rare": True}, findings={"leucocytosis": True})
    weight = torch.linspace(0.5, 1.5, 35).view(7, 5)

    def losses(rows: slice) -> torch.Tensor:
        batch = collate(ward[rows], multilabel)
        found = model.losses(model.encode(batch), batch, KEPT[rows], weight[rows])
        return torch.stack([torch.as_tensor(loss).detach() for loss in (found.L_class, found.L_find)])

    parts = (losses(slice(0, 2)) * 2 + losses(slice(2, 7)) * 5) / 7
    torch.testing.assert_close(parts, losses(slice(0, 7)), rtol=1e-6, atol=0)


def test_a_patient_without_weight_or_label_teaches_nothing(make):
    model = make()
    batch = collate(WARD)
    kept = torch.ones(7, 3, dtype=torch.bool)
    weight = torch.ones(7, 5)
    weight[2] = 0
    a = model.losses(model.encode(batch), batch, kept, weight).L_class
    other = collate([*WARD[:2], patient(2, PATTERNS[2], label=0), *WARD[3:]])
    b = model.losses(model.encode(other), other, kept, weight).L_class
    assert torch.equal(a, b)
    unlabelled = collate([Patient("x", WARD[0].modalities)])
    losses = model.losses(model.encode(unlabelled), unlabelled, kept[:1], torch.ones(1, 5))
    assert losses.L_class == 0
    assert losses.L_find == 0


def test_it_learns(make):
    """Classes that the picture, the value and the very presence of labs tell apart."""
    model = make(untrained=True).train()
    ward = []
    for i in range(40):
        ill = i % 2
        one = patient(i, (1, ill, 1), values=(90.0, 3.0), label=ill)
        ward.append(
            Patient(one.id, {**one.modalities, "picture": one.modalities["picture"] * ill}, one.labels)
        )
    batch, kept = collate(ward), torch.ones(40, 3, dtype=torch.bool)
    if isinstance(model, FittedModel):
        model.learn([(batch, kept, torch.ones(40, 5))])
    else:
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(30):
            loss = sum(model.losses(model.encode(batch), batch, kept, torch.ones(40, 5)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    seen = model.eval().encode(batch).m.any(1)  # labs alone sees nothing of those who have none
    assert seen.any()
    right = diagnose(model, ward).argmax(1) == batch.label.argmax(1)
    assert right[seen].all()


def test_mask_only_sees_cells_but_no_values():
    torch.manual_seed(0)
    model = MaskOnly(make_task(), CONFIG).eval()
    with torch.no_grad():
        model.head.weight.normal_()
    a, b = patient(1), patient(9, values=(40.0, 2.0))
    pair = diagnose(model, [a, b])
    torch.testing.assert_close(pair[0], pair[1])
    fewer = diagnose(model, [a, patient(1, cells=1)])
    assert not torch.allclose(fewer[0], fewer[1], atol=1e-3)


def test_single_modality_reads_no_other():
    torch.manual_seed(0)
    model = SingleModality(make_task(), CONFIG, "labs").eval()
    with torch.no_grad():
        model.head.weight.normal_()
    only = diagnose(model, [patient(3), patient(3, (0, 1, 0))])
    torch.testing.assert_close(only[0], only[1])
    assert model.encode(collate(WARD)).m.tolist() == [[False, bool(h[1]), False] for h in PATTERNS]
    with pytest.raises(KeyError, match="unknown modality 'lab'"):
        SingleModality(make_task(), CONFIG, "lab")


def test_baselines_have_the_encoders_of_the_task():
    for build in (LateFusion, DropoutTransformer):
        assert set(build(make_task(), CONFIG).encoders.encoders) == set(NAMES)
