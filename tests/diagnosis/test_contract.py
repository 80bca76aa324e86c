from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from robustmdiff.baselines.late_fusion import LateFusion
from robustmdiff.baselines.mask_only import MaskOnly
from robustmdiff.data.batch import Batch
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import class_loss
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.training.rare import rare_weights


class Table(DiagnosisModel):
    """Logits of its own for each of X kinds of patients, one modality."""

    def __init__(self, task, X):
        super().__init__(task, ModelConfig(), None)
        self.logits = torch.nn.Parameter(torch.zeros(X, len(task.classes), dtype=torch.float64))

    def losses(self, encoded, batch, kept, weight):
        raise NotImplementedError

    def classify(self, encoded):
        return Logits(self.logits)

    def answered(self):
        return self.probability(self.logits, torch.ones(len(self.logits), dtype=torch.long)).detach()


def task_of(C, multilabel):
    modality = Modality("x", "values", fields=(Field("x"),))
    return Task((modality,), tuple("abc"[:C]), (1 / C,) * C, multilabel=multilabel)


def learned(task, x, label, how):
    """What a table answers that is fitted to the weighted loss of these patients, to convergence."""
    n = len(x)
    known = torch.ones(n, label.shape[1], dtype=torch.bool)
    batch = Batch(tuple(map(str, range(n))), known[:, :1], {}, label, known, label[:, :0], known[:, :0])
    model = Table(task, int(x.max()) + 1)
    rare = rare_weights(model.labels, label, known, 0.7, how)
    weight = rare.loss if rare.draw is None else rare.draw[:, None] * rare.loss  # drawn so often, on average
    optimiser = torch.optim.LBFGS([model.logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def step():
        optimiser.zero_grad()
        loss = class_loss(model.labels, model.logits[x], batch, weight.double())
        loss.backward()
        return loss

    optimiser.step(step)
    model.log_weight.copy_(rare.log_weight)
    return model.answered()


@pytest.mark.parametrize("how", ["weight", "sample"])
def test_what_is_learned_with_weights_is_answered_without_them(how):
    """One label. log w is float32: measured 4e-8."""
    counts = torch.tensor([[30, 5, 1], [10, 20, 2], [3, 3, 6]])  # of each class, for three kinds of patients
    x, y = torch.cartesian_prod(torch.arange(3), torch.arange(3)).repeat_interleave(counts.flatten(), 0).T
    found = learned(task_of(3, False), x, torch.eye(3, dtype=torch.float64)[y], how)
    torch.testing.assert_close(found, counts.double() / counts.sum(1, keepdim=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["weight", "sample"])
def test_so_is_each_of_many_labels(how):
    """Class a depends on i, the rarer b on j, of patients (i, j): drawing more of b tells nothing of a."""
    p_a, p_b = torch.tensor([0.25, 0.75]).double(), torch.tensor([0.05, 0.2]).double()
    rows, label = [], []
    for i, j, a, b in itertools.product(range(2), repeat=4):
        n = 80 * (p_a[i] if a else 1 - p_a[i]) * (p_b[j] if b else 1 - p_b[j])
        rows += [2 * i + j] * round(float(n))
        label += [[float(a), float(b)]] * round(float(n))
    found = learned(task_of(2, True), torch.tensor(rows), torch.tensor(label).double(), how)
    expected = torch.stack([p_a.repeat_interleave(2), p_b.repeat(2)], 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_losses_and_classify_are_a_models_own(study):
    class Neither(DiagnosisModel):
        pass

    with pytest.raises(TypeError, match=r"abstract.*classify.*losses"):
        Neither(study.cohort.task, study.config, None)


def test_the_weights_are_taken_off_inside_every_draw(study, model):
    """And what is left is divided by the temperature of as many modalities as are visible."""
    encoded = model.encode(study.collator(study.patients))
    said = model.say("draws", encoded, draws=5, seed=2).logits
    with torch.no_grad():
        model.log_weight += torch.linspace(0, 2, 12)
        model.temperature += torch.arange(7)
        model.undone -= 0.5
    k = encoded.m.sum(1)
    expected = (said / (1 + k[:, None]) - 0.5 * model.log_weight).softmax(-1)
    found = model.diagnose(encoded, draws=5, seed=2)
    torch.testing.assert_close(found.draws[:, k > 0], expected[:, k > 0])
    torch.testing.assert_close(found.probability[k > 0], expected.mean(0)[k > 0])


def test_where_nothing_is_visible_the_answer_is_the_prevalence(study, monkeypatch):
    """And nowhere else: whatever the weights are, in the probability and in every draw."""
    model, batch = MaskOnly(study.cohort.task, study.config), study.collator(study.patients[:3])
    said, asked = torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(0)), []
    model.log_weight += torch.linspace(0, 2, 12)

    def imagined(encoded, *, draws, seed):
        asked.append((draws, seed))
        return Logits(said, lambda p: p[..., :2])

    monkeypatch.setattr(model, "imagined", imagined)
    model.answer = "draws"
    kept = torch.ones_like(batch.presence)
    kept[1] = False
    found = model.diagnose(model.encode(batch).keep(kept))
    prevalence = torch.tensor(study.cohort.task.prevalence)
    assert torch.equal(found.probability[1], prevalence)
    assert torch.equal(found.draws[:, 1], prevalence.expand(5, -1))
    assert all(torch.equal(end[1], prevalence) for end in found.interval())
    each = (said - model.log_weight).softmax(-1)
    torch.testing.assert_close(found.probability[[0, 2]], each.mean(0)[[0, 2]])
    torch.testing.assert_close(found.draws[:, [0, 2]], each[:, [0, 2]])
    torch.testing.assert_close(found.findings, each.mean(0)[:, :2])
    model.diagnose(model.encode(batch), draws=7, seed=3)
    assert asked == [(study.config.draws, 0), (7, 3)]  # its own number unless another is given


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
