from __future__ import annotations

import dataclasses
import math
import zlib

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import log_loss as sklearn_log_loss

from robustmdiff.diagnosis.contract import Logits
from robustmdiff.diagnosis.train import train
from robustmdiff.diagnosis.validation import (
    answer_note,
    choose_answer,
    log_loss,
    tempered_log_loss,
    validate,
)
from robustmdiff.labels import Exclusive, Independent
from robustmdiff.training.batches import PackedPatients
from robustmdiff.training.log import TrainingError
from robustmdiff.training.notes import read_notes
from tests.training import toy


def test_log_loss_equals_sklearns():
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.dirichlet([1, 1, 1, 1], 57).round(1)) + 0.01  # ties
    p = p / p.sum(1, keepdim=True)
    y = rng.integers(0, 3, 57)  # nobody has class 3: it does not count
    label, known = torch.eye(4)[y], torch.ones(57, 4, dtype=torch.bool)
    known[:5] = False  # unknown patients do not count
    expected = sklearn_log_loss(y[5:], p[5:].numpy(), labels=range(4))
    assert log_loss(p, label, known, labels=Exclusive()) == pytest.approx(expected, rel=1e-6)


def test_multilabel_log_loss_counts_known_cells():
    p = torch.tensor([[0.9, 0.2], [0.5, 0.5]])
    label, known = torch.tensor([[1.0, 1], [0, 0]]), torch.tensor([[True, True], [False, True]])
    expected = -(math.log(0.9) + math.log(0.2) + math.log(0.5)) / 3
    assert log_loss(p, label, known, labels=Independent()) == pytest.approx(expected, rel=1e-6)


def test_validation_masks_hide_at_the_rate_and_stay_the_same():
    seen = []

    class Spy(toy.Toy):
        def diagnose(self, encoded, **kwargs):
            seen.append(encoded.m)
            return super().diagnose(encoded, **kwargs)

    patients = PackedPatients(toy.make_patients(700), toy.collator(), 1)
    model = Spy().train()
    arguments = {"batch_size": 32, "seed": 3}
    one = validate(model, Accelerator(cpu=True), patients, [0.0, 0.4], **arguments)
    assert torch.equal(torch.cat(seen[0::2]), patients.presence)
    share = torch.cat(seen[1::2])[patients.presence].double().mean().item()
    assert abs(share - 0.6) < 5 * (0.24 / patients.presence.sum().item()) ** 0.5
    other = validate(model, Accelerator(cpu=True), patients, [0.0, 0.4], **(arguments | {"batch_size": 101}))
    assert one == pytest.approx(other, rel=1e-6)
    assert model.training
    assert one["log_loss"] == pytest.approx((one["log_loss@0"] + one["log_loss@0.4"]) / 2)


def test_a_metric_that_these_patients_cannot_have_is_left_out():
    alike = [dataclasses.replace(p, labels={"flu": True}) for p in toy.make_patients(9)]
    unknown = [dataclasses.replace(p, labels={}) for p in toy.make_patients(9)]
    for patients, names in ((alike, {"log_loss", "log_loss@0"}), (unknown, set())):
        packed = PackedPatients(patients, toy.collator(), 1)
        metrics = validate(toy.Toy(), Accelerator(cpu=True), packed, [0.0], batch_size=4, seed=3)
        assert set(metrics) == names


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.5])
def test_no_metric_of_what_is_no_probability(bad):
    p, label = torch.full((3, 2), 0.5), torch.eye(2)[[0, 1, 1]]
    p[2, 0] = bad
    with pytest.raises(ValueError, match=rf"the probability of class 0 is {bad} for row 2, expected"):
        log_loss(p, label, torch.ones(3, 2, dtype=torch.bool), labels=Exclusive())


def test_weights_that_answer_nan_are_never_the_best(tmp_path):
    """The first validation would win against every later one: no number is better than NaN."""

    class Broken(toy.Toy):
        def diagnose(self, encoded, **kwargs):
            return super().diagnose(encoded)._replace(probability=torch.full((len(encoded.H), 3), torch.nan))

    with pytest.raises(TrainingError, match="validation: the probability of class 0 is nan for patient 'v0'"):
        toy.run(tmp_path, model=Broken())
    assert not (tmp_path / "best.safetensors").exists()


def test_without_a_known_label_there_is_no_log_loss(tmp_path):
    unknown = [dataclasses.replace(p, labels={}) for p in toy.make_patients(9, 1, "v")]
    config = toy.CONFIG.model_copy(update={"monitor": "log_loss"})
    with pytest.raises(ValueError, match="no class is known to hold for any of patients_valid"):
        train(toy.Toy(), toy.make_patients(40), unknown, toy.collator(), config, tmp_path)


class TwoAnswers(toy.Toy):
    """z is N(e_y, 1) of class y: a head that says three times log p(y | z), and draws with noise about it."""

    draws = 64

    def encode(self, batch):
        encoded = super().encode(batch)
        seeds = [zlib.crc32(id.encode()) for id in batch.ids]
        noise = [torch.randn(3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return encoded._replace(H=(batch.label + torch.stack(noise))[:, None].expand(-1, 3, -1))

    @property
    def answers(self):
        return "head", "draws"

    def classify(self, encoded):
        return Logits(3 * (encoded.H[:, 0] + torch.tensor(toy.TASK.prevalence).log()))

    def imagined(self, encoded, *, draws, seed):
        noise = torch.randn(self.draws, 1, 3, generator=torch.Generator().manual_seed(seed))
        return Logits(self.classify(encoded).logits + 6 * noise)


def test_the_answer_of_least_log_loss_is_chosen_each_at_its_best_temperature():
    """A mean over draws is less sure: without a temperature that alone would make it the better one."""
    patients = PackedPatients(toy.make_patients(300), toy.collator(), 1)
    model, where = TwoAnswers(d=3), (Accelerator(cpu=True), patients, [0.0, 0.5])
    untempered = {}
    for name in model.answers:
        model.answer = name
        untempered[name] = validate(model, *where, batch_size=32, seed=3)["log_loss"]
    found = choose_answer(model.train(), *where, batch_size=32, seed=3)
    assert model.training
    assert untempered["draws"] < untempered["head"]
    assert found["head"] < found["draws"]
    assert model.answer == "head"
    assert found == pytest.approx(choose_answer(model, *where, batch_size=101, seed=3), rel=1e-6)
    told = answer_note(model, found, 300)
    assert (told.topic, told.n) == ("answer", 300)
    assert told.sentence.startswith("Answers come from the head: log loss in 300 patients ")


def test_an_enriched_patient_counts_as_often_as_in_the_population():
    some = [p for p in toy.make_patients(12) if any(map(p.has, toy.TASK.modality_names))][:7]
    patients = PackedPatients(some, toy.collator(), 1)  # too few for a temperature

    def found(weight):
        where = Accelerator(cpu=True), patients, [0.0], ["head"]
        return tempered_log_loss(TwoAnswers(d=3), *where, batch_size=4, seed=3, weight=weight)["head"]

    each = np.array([found(weight) for weight in np.eye(7)])
    weight = np.arange(7.0)
    assert np.ptp(each) > 0.1
    assert found(weight) == pytest.approx(weight @ each / weight.sum(), rel=1e-9)
    assert found(None) == pytest.approx(each.mean(), rel=1e-9)


def test_too_few_to_choose_keep_the_answer_and_say_so(tmp_path):
    patients = toy.make_patients(40), toy.make_patients(9, 1, "v")
    model = TwoAnswers(d=3)
    model.answer = "draws"
    train(model, *patients, toy.collator(), toy.CONFIG.model_copy(update={"monitor": "last"}), tmp_path)
    assert model.answer == "draws"
    (note,) = (note for note in read_notes(tmp_path) if note.topic == "answer")
    assert note.sentence == "Answers come from the draws, because 9 patients validate, too few to choose by."


def test_weights_learned_with_rare_classes_are_known_to_the_model(tmp_path):
    patients = toy.make_patients(93)
    toy.run(tmp_path, model=(model := toy.Toy()))
    y = [next(c for c, name in enumerate(toy.TASK.classes) if p.labels.get(name)) for p in patients]
    f = np.bincount(y, minlength=3) / 93
    np.testing.assert_allclose(model.log_weight.numpy(), 0.5 * np.log(f.max() / f), rtol=1e-6)
