"""What is calibrated is what will be answered, wherever the model is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from robustmdiff.data.collate import Collator
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.asking import encode, evaluating, under
from robustmdiff.diagnosis.calibration import Calibration, calibrate, say_if_calibrated_otherwise
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.diagnosis.subsets import every_subset, subsets
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
            rows.append((p.numpy(), z.numpy(), mask[0].numpy(), batch.label[0].numpy()))
    return map(np.stack, zip(*rows, strict=True))


def test_it_is_that_of_every_patient_under_every_subset(study, model):
    calibration, training = study.patients[:7], study.patients[7:]
    found = calibrate(model.train(), calibration, training, study.collator)
    assert model.training  # as it was
    model.eval()
    with torch.no_grad():
        p, z, presence, label = by_hand(model, calibration, study.collator)
        _, usual, seen, _ = by_hand(model, training, study.collator)
    expected = ConformalSets.fit(p, label, presence)
    assert found.sets.alpha == 0.1
    assert len(found.sets.quantiles) == len(expected.quantiles) == 1
    for group, (quantile, n) in expected.quantiles[0].items():
        assert found.sets.quantiles[0][group] == (pytest.approx(quantile, abs=1e-5), n)
    distance = Abstention.fit(usual, seen, z, presence).distance(z, presence)
    np.testing.assert_allclose(found.abstention.distance(z, presence), distance, rtol=1e-3)


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
