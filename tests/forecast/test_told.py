from __future__ import annotations

import torch

from robustmdiff.forecast.contract import Seen
from robustmdiff.forecast.told import Standardise, draw_classes, of_seen, of_view
from robustmdiff.labels import EXCLUSIVE, INDEPENDENT
from robustmdiff.ops import philox_key

P = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.01, 0.0, 0.0, 0.99], [0.25, 0.25, 0.25, 0.25]])


def test_a_class_has_its_share_of_the_draws_but_for_one():
    for seed in range(20):
        drawn = draw_classes(EXCLUSIVE, P, 37, philox_key(seed))
        assert drawn.shape == (3, 37, 4)
        assert torch.equal(drawn.sum(-1), torch.ones(3, 37))
        assert ((drawn.sum(1) - 37 * P).abs() < 1 + 1e-4).all()
        assert drawn[0, :, 3].sum() == drawn[1, :, 1:3].sum() == 0  # what has no probability is not drawn


def test_rare_classes_are_drawn_as_often_as_they_are_likely():
    drawn = torch.cat([draw_classes(EXCLUSIVE, P, 10, philox_key(seed)) for seed in range(600)], dim=1)
    share = float(drawn[1, :, 0].mean())  # of 600 draws of ten, each with or without one: 60 expected
    assert abs(share - 0.01) < 4 * (0.01 / 6000 * 0.9) ** 0.5


def test_classes_that_go_together_are_each_drawn_by_their_own_probability():
    p = torch.tensor([[0.5, 0.9, 0.1], [0.0, 1.0, 0.4]])
    drawn = draw_classes(INDEPENDENT, p, 40, philox_key(3))
    assert ((drawn.sum(1) - 40 * p).abs() < 1 + 1e-4).all()
    assert len({tuple(row) for row in drawn[0].tolist()}) > 4  # not one after the other: classes mix
    many = torch.stack([draw_classes(INDEPENDENT, p, 40, philox_key(s))[0] for s in range(200)])
    together = float((many[..., 0] * many[..., 1]).mean())  # 8,000 draws, independent: .5 x .9
    assert abs(together - 0.45) < 0.02


def test_draws_are_the_patients_own_in_no_order_of_the_classes():
    drawn = draw_classes(EXCLUSIVE, P, 64, philox_key(3))
    assert torch.equal(drawn[1:2], draw_classes(EXCLUSIVE, P[1:2], 64, philox_key(3)))
    assert not torch.equal(drawn, draw_classes(EXCLUSIVE, P, 64, philox_key(4)))
    classes = drawn[2].argmax(-1)
    assert (classes.diff() < 0).sum() > 10


def test_what_is_told_of_who_is_seen():
    m, view = torch.tensor([[True, False, False]]), torch.tensor([[True, False, True]])
    seen = Seen(torch.tensor([[0.5, -2.0]]), m, torch.full((1, 3, 0), torch.nan), torch.tensor([[1.0, 0.0]]))
    # log p / 4 with a floor, p, y, m; and y, m, what is added and how much of all that is
    torch.testing.assert_close(of_seen(seen), torch.tensor([[0, -2, 1, 0, 0.5, -2, 1, 0, 0]]))
    expected = torch.tensor([[0.5, -2, 1, 0, 0, 0, 0, 1, 1 / 3]])
    torch.testing.assert_close(of_view(seen, view), expected)


def test_standardised_numbers_and_back():
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    standard = Standardise(2)
    standard.fit(x)
    torch.testing.assert_close(standard(x), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(standard.back(standard(x)), x)
