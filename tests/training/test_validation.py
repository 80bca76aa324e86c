from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import toy
from accelerate import Accelerator
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from robustmdiff.training.batches import PackedPatients
from robustmdiff.training.validation import log_loss, macro_auroc, validate


def test_metrics_equal_sklearns():
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.dirichlet([1, 1, 1, 1], 57).round(1)) + 0.01  # ties
    p = p / p.sum(1, keepdim=True)
    y = rng.integers(0, 3, 57)  # nobody has class 3: it does not count
    label, known = torch.eye(4)[y], torch.ones(57, 4, dtype=torch.bool)
    known[:5] = False  # unknown patients do not count
    auroc = [roc_auc_score(y[5:] == c, p[5:, c]) for c in range(3)]
    assert macro_auroc(p, label, known) == pytest.approx(np.mean(auroc), abs=1e-12)
    expected = sklearn_log_loss(y[5:], p[5:].numpy(), labels=range(4))
    assert log_loss(p, label, known, multilabel=False) == pytest.approx(expected, rel=1e-6)


def test_multilabel_log_loss_counts_known_cells():
    p = torch.tensor([[0.9, 0.2], [0.5, 0.5]])
    label, known = torch.tensor([[1.0, 1], [0, 0]]), torch.tensor([[True, True], [False, True]])
    expected = -(math.log(0.9) + math.log(0.2) + math.log(0.5)) / 3
    assert log_loss(p, label, known, multilabel=True) == pytest.approx(expected, rel=1e-6)
    assert math.isnan(macro_auroc(p, label, torch.zeros(2, 2, dtype=torch.bool)))


def test_validation_masks_hide_at_the_rate_and_stay_the_same():
    seen = []

    class Spy(toy.Toy):
        def diagnose(self, encoded, **kwargs):
            seen.append(encoded.presence())
            return super().diagnose(encoded, **kwargs)

    patients = PackedPatients(toy.make_patients(700), toy.collator(), 1)
    model = Spy().train()
    arguments = {"batch_size": 32, "draws": 2, "seed": 3}
    one = validate(model, Accelerator(cpu=True), patients, [0.0, 0.4], **arguments)
    assert torch.equal(torch.cat(seen[0::2]), patients.presence)
    share = torch.cat(seen[1::2])[patients.presence].double().mean().item()
    assert abs(share - 0.6) < 5 * (0.24 / patients.presence.sum().item()) ** 0.5
    other = validate(model, Accelerator(cpu=True), patients, [0.0, 0.4], **(arguments | {"batch_size": 101}))
    assert one == pytest.approx(other, rel=1e-6)
    assert model.training
    assert one["log_loss"] == pytest.approx((one["log_loss@0"] + one["log_loss@0.4"]) / 2)
