"""What is calibrated is what will be answered, wherever the model is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustmdiff.coalitions import every_subset
from robustmdiff.data.collate import Collator
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.asking import encode, evaluating, under
from robustmdiff.diagnosis.calibration import Calibration, calibrate, say_if_calibrated_otherwise
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.diagnosis.subsets import subsets
from robustmdiff.encoders.tensors import tensors
from tests import elsewhere
from tests.elsewhere import TASK, Reader, ward


def by_hand(model, patients, collator):
    """Every patient alone, under every subset of what it has: probability, latent, presence, label."""
    rows = []
    for patient in patients:
        batch = collator([patient])
        encoded = model.encode(batch)
        have = batch.presence[0].nonzero()[:, 0]
        for members in every_subset(len(have)):
            mask = torch.zeros_like(batch.presence)
            mask[0, have[torch.from_numpy(members)]] = True
            view = encoded.keep(mask)
            p, z = model.diagnose(view).probability[0], model.observe(view)[0]
            rows.append((p.numpy(), z.numpy(), mask[0].numpy(), batch.label[0].numpy(), patient.person))
    return map(np.stack, zip(*rows, strict=True))


def test_it_is_that_of_every_patient_under_every_subset(study, model):
    calibration, training = study.patients[:7], study.patients[7:]
    found = calibrate(model.train(), calibration, training, study.collator)
    assert model.training  # as it was
    model.eval()
    with torch.no_grad():
        p, z, presence, label, person = by_hand(model, calibration, study.collator)
        _, usual, seen, _, _ = by_hand(model, training, study.collator)
    rare = [name in model.task.rare for name in model.task.classes]
    expected = ConformalSets.fit(p, label, presence, rare=rare, person=person)
    assert found.sets.alpha == 0.1
    assert len(found.sets.quantiles) == len(expected.quantiles) == len(model.task.classes)
    for cells, others in zip(found.sets.quantiles, expected.quantiles, strict=True):
        assert cells.keys() == others.keys()
        for name, (quantile, people, of) in others.items():
            assert cells[name] == (pytest.approx(quantile, abs=1e-5), people, of)
    distance = Abstention.fit(usual, seen, z, presence).distance(z, presence)
    np.testing.assert_allclose(found.abstention.distance(z, presence), distance, rtol=1e-3)


def test_people_and_weights_are_those_of_each_patient(monkeypatch):
    """80 records of 40 people, in two batches: a view is its person's, and weighs what the record does."""
    patients = [replace(p, group=f"person {i // 2}") for i, p in enumerate(ward(80))]
    weight = np.where([p.labels["ill"] for p in patients], 3.0, 0.5)
    fitted = {}
    monkeypatch.setattr(
        ConformalSets, "fit", lambda p, label, presence, alpha, **k: fitted.update(k, label=label)
    )
    calibrate(Reader(), patients, ward(30, seed=1), Collator(TASK), weight)
    people, views = np.unique(fitted["person"], return_counts=True)
    assert people.tolist() == list(range(40))
    have = np.array([sum(p.has(name) for name in "abc") for p in patients])
    np.testing.assert_array_equal(views, 2 ** have[::2] + 2 ** have[1::2])
    np.testing.assert_array_equal(fitted["weight"], np.where(fitted["label"][:, 1] == 1, 3.0, 0.5))
    with pytest.raises(ValueError, match="calibrate: weight has 79 numbers, expected 80"):
        calibrate(Reader(), patients, (), Collator(TASK), weight[1:])


def test_it_is_made_with_the_draws_that_the_model_answers_with(study, model, monkeypatch):
    asked = []
    imagine = model.imagine
    monkeypatch.setattr(
        model, "imagine", lambda *a, draws, **k: asked.append(draws) or imagine(*a, draws=draws, **k)
    )
    calibrate(model, study.patients[:3], study.patients[3:6], study.collator)
    assert set(asked) == {model.config.draws} == {5}


def test_another_number_of_draws_is_warned_of(model, recwarn):
    say_if_calibrated_otherwise(model, None)
    say_if_calibrated_otherwise(model, 5)
    assert not recwarn
    with pytest.warns(UserWarning, match="^draws is 64, and the prediction sets were calibrated for 5: "):
        say_if_calibrated_otherwise(model, 64)


def test_what_is_saved_is_loaded(study, model, tmp_path):
    made = calibrate(model, study.patients[:5], study.patients[5:], study.collator)
    made.save(tmp_path)
    again = Calibration.load(tmp_path)
    assert again.sets.state() == made.sets.state()
    assert json.dumps(again.abstention.state()) == json.dumps(made.abstention.state())
    made._replace(abstention=None).save(tmp_path / "other")
    assert Calibration.load(tmp_path / "other").abstention is None


def test_a_model_on_an_accelerator_is_calibrated_there():
    """As training on a GPU ends: the model stays there, and collated batches are on the CPU."""
    collator, here, there = Collator(TASK), Reader(), Reader()
    expected = calibrate(here, ward(80), ward(30, seed=1), collator)
    with elsewhere.available():
        there.move()
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            there.encode(tensors(collator(ward(3))))  # what the pretended accelerator is for
        found = calibrate(there, ward(80), ward(30, seed=1), collator)
    assert there.weight.device == elsewhere.DEVICE
    assert found.sets.state() == expected.sets.state()
    assert found.abstention.state() == expected.abstention.state()


def test_answers_are_looked_up_under_what_is_left():
    model, patients = Reader(), ward(9)
    batch = Collator(TASK)(patients)
    left = batch.presence & subsets(3)[:, None]
    with evaluating(model):
        encoded = encode(model, batch)
        asked = []
        found = under(encoded, left, lambda view: asked.append(view) or model.diagnose(view).probability)
        for k, mask in enumerate(left):
            expected = model.diagnose(encoded.keep(torch.from_numpy(mask))).probability
            np.testing.assert_array_equal(found[k], expected.numpy())
    assert len(asked) == 2 ** int(batch.presence.sum(1).max())
