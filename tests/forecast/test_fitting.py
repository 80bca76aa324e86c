from __future__ import annotations

import torch
from torch import nn

from robustmdiff.forecast.fitting import drawing_by, fit
from robustmdiff.ops import philox_key


def test_a_line_is_found():
    x = torch.linspace(-1, 1, 200)[:, None]
    y = 0.3 * x - 0.1
    with drawing_by(philox_key(0)):
        line = nn.Linear(1, 1)
        nn.init.zeros_(line.weight)
        nn.init.zeros_(line.bias)
        who = torch.arange(200)
        fit(line, lambda rows: (line(x[rows]) - y[rows]).square().mean(), who, who < 30, what="a line")
    assert float((line(x) - y).detach().abs().max()) < 0.02
    assert not line.training


def test_those_who_watch_choose_the_weights():
    """Who is fitted on wants 1, who watches 0: the weights of the first look are the best."""
    weight = nn.Linear(1, 1, bias=False)
    who = {True: set(), False: set()}

    def fitted(patient, watching, steps):
        def loss(rows):
            who[weight.training] |= set(patient[rows].tolist())
            w = weight.weight[0, 0]
            return (w - 1).square() if weight.training else w.square()

        nn.init.zeros_(weight.weight)
        with drawing_by(philox_key(0)):
            fit(weight, loss, patient, watching, what="a weight", steps=steps)
        return float(weight.weight.detach())

    patient = torch.arange(140).repeat_interleave(3)
    first = fitted(patient, patient < 20, 300)
    assert who[True] == set(range(20, 140))
    assert who[False] == set(range(20))
    assert 0 < first < 0.2
    who[False].clear()
    assert fitted(patient, patient < 0, 300) > 1.5 * first  # nobody watches: the last
    assert not who[False]


def test_few_patients_take_few_steps():
    asked = []
    line = nn.Linear(1, 1)

    def loss(rows):
        asked.append(line.training)
        return line.weight.sum()

    for n, steps in ((20, 140), (10, 100), (400, 200)):
        asked.clear()
        who = torch.arange(n + 10)
        fit(line, loss, who, who >= n, what="a line", steps=200)
        assert sum(asked) == steps


def test_drawing_by_a_key_leaves_the_generators_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with drawing_by(philox_key(5, 7)):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    for seed, offset in ((5, 7), (-1, 0), (5, 8)):
        with drawing_by(philox_key(seed, offset)):
            again = torch.rand(2)
        assert torch.equal(first, again) is ((seed, offset) == (5, 7))
