from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robustmdiff.training.ema import WeightAverage
from robustmdiff.training.optimizer import adamw, warmup_cosine


def test_average_of_weights_is_the_recursion():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5).requires_grad_(False))
    average = WeightAverage(model, decay=0.7)
    exact = model[0].weight.detach().double()
    for step in range(20):
        with torch.no_grad():
            model[0].weight.normal_()
            model[1].weight.normal_()
        average.update(step)
        d = min(0.7, (1 + step) / (10 + step))
        exact = d * exact + (1 - d) * model[0].weight.double()
    torch.testing.assert_close(average.weights["0.weight"].double(), exact.detach(), rtol=1e-6, atol=1e-6)
    assert set(average.weights) == {"0.weight", "0.bias"}  # frozen ones are the model's own

    now = model[0].weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model[0].weight.double(), exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(model[0].weight, now)


def test_average_comes_back_after_an_error():
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.zero_()
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert not model.weight.any()


def test_learning_rate_rises_then_falls_as_a_cosine():
    factors = [warmup_cosine(step, 110, 10 / 110) for step in range(110)]
    assert factors[:10] == [(i + 1) / 11 for i in range(10)]
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert warmup_cosine(0, 1, 0.0) == 1.0


def test_weight_decay_spares_biases_and_frozen_weights():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 5).requires_grad_(False))
    matrices, rest = adamw(model, 1e-3, 0.1).param_groups
    assert [p.shape for p in matrices["params"]] == [(2, 3)]
    assert matrices["weight_decay"] == 0.1
    assert [p.shape for p in rest["params"]] == [(2,), (2,), (2,)]
    assert rest["weight_decay"] == 0
