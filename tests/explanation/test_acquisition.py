from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.explanation.acquisition import rank_next_tests, spread
from robustmdiff.labels import Exclusive, Independent

NAMES = ("xray", "ct", "labs", "genes")
COST = (1.0, 8.0, 0.5, 2.0)


class Stub:
    """Draws whose logit is the patient's own H plus noise as wide as `width` of what the view adds."""

    def __init__(self, width, multilabel=False, floor=0.0):
        modalities = tuple(
            Modality(n, "values", fields=(Field("f"),), cost=c) for n, c in zip(NAMES, COST, strict=True)
        )
        self.task = Task(modalities, ("no", "yes"), (0.7, 0.3), multilabel=multilabel)
        self.width, self.floor = torch.tensor(width), floor
        self.views = torch.ones(1, len(NAMES), dtype=torch.bool)  # all were seen together
        self.second_stage, self.imagines = None, True

    def imagine(self, encoded, *, view, draws, seed):
        g = torch.Generator().manual_seed(seed)
        noise = torch.randn(draws, generator=g)  # the same for every row
        added = self.floor + ((view & ~encoded.m) * self.width).sum(1)  # [B]
        own = encoded.H.masked_fill(~encoded.m[..., None], 0).sum((1, 2))
        return (own[:, None] + added[:, None] * noise)[..., None]

    def logits_from(self, y):
        return torch.cat([torch.zeros_like(y), y], -1)

    def probability(self, logits, visible):
        return logits.softmax(-1)


def encoded(presence):
    presence = torch.tensor(presence, dtype=torch.bool)
    B, M = presence.shape
    length = presence.int()
    start = (length.flatten().cumsum(0) - length.flatten()).view(B, M)
    H = torch.linspace(-1, 1, B * M).view(B, M, 1).masked_fill(~presence[..., None], torch.nan)
    return Encoded(torch.zeros(int(length.sum()), 1), torch.stack([start, length], -1).int(), H)


def test_the_most_informative_per_cost_comes_first():
    tests = rank_next_tests(Stub([1.0, 3.0, 1.0, 0.0]), encoded([[1, 0, 0, 0]]), draws=500)
    assert [t.modality for t in tests] == ["labs", "ct", "genes"]
    labs, ct, genes = tests
    assert ct.expected_change > labs.expected_change > genes.expected_change
    assert ct.entropy_reduction > labs.entropy_reduction
    assert (labs.cost, ct.cost) == (0.5, 8.0)
    assert labs.value == labs.expected_change / 0.5
    assert genes.expected_change == pytest.approx(0, abs=1e-12)
    assert genes.entropy_reduction == pytest.approx(0, abs=1e-12)


def test_what_the_draws_scatter_by_themselves_does_not_count():
    """Against change / cost alone: cheap genes that add nothing would come before the CT."""
    tests = rank_next_tests(Stub([1.0, 3.0, 0.0, 0.0], floor=1.0), encoded([[1, 0, 0, 0]]), draws=500)
    assert [t.modality for t in tests] == ["ct", "labs", "genes"]
    assert tests[1].floor == tests[1].expected_change == tests[0].floor > 0.1
    assert tests[0].value == (tests[0].expected_change - tests[0].floor) / 8
    assert tests[1].value == tests[2].value == 0
    assert [t.gain for t in tests] == [tests[0].expected_change - tests[0].floor, 0, 0]
    assert [t.noticeable for t in tests] == [True, False, False]


@pytest.mark.parametrize(("width", "noticeable"), [(0.02, False), (0.2, True)])
def test_a_change_is_told_in_probability_whatever_the_cost(width, noticeable):
    """p = sigmoid(own + width * noise) moves by p (1 - p) width E|noise|, to first order; labs cost 0.5."""
    one = encoded([[1, 1, 0, 1]])
    (labs,) = rank_next_tests(Stub([0, 0, width, 0]), one, draws=4000)
    p = float(one.H.nan_to_num().sum().sigmoid())
    assert labs.gain == pytest.approx(p * (1 - p) * width * (2 / math.pi) ** 0.5, rel=0.05)
    assert labs.value == 2 * labs.gain
    assert labs.noticeable is noticeable


def test_same_seed_same_answer_whoever_else_is_there():
    model = Stub([1.0, 3.0, 1.0, 0.5])
    pair = encoded([[1, 1, 1, 0], [0, 1, 0, 0]])
    alone = pair._replace(
        tokens=pair.tokens[3:], segments=torch.tensor([[[0, 0], [0, 1], [0, 0], [0, 0]]]).int(), H=pair.H[1:]
    )
    ours = rank_next_tests(model, pair, patient=1, draws=20, seed=4)
    assert ours == rank_next_tests(model, alone, draws=20, seed=4)
    assert ours != rank_next_tests(model, alone, draws=20, seed=5)
    assert {t.modality for t in ours} == {"xray", "labs", "genes"}


def test_nothing_left_to_order():
    assert rank_next_tests(Stub([1.0] * 4), encoded([[1, 1, 1, 1]])) == ()


def test_one_draw_has_no_spread():
    with pytest.raises(ValueError, match="draws is 1, expected at least 2"):
        rank_next_tests(Stub([1.0] * 4), encoded([[1, 0, 1, 1]]), draws=1)


def test_spread_of_certain_opposites():
    """Half the draws certain of one class, half of the other: one bit, and from either half the distance."""
    p = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    for now in ([0.5, 0.5, 0], [1.0, 0, 0]):
        change, surer = spread(p, p.new_tensor(now), Exclusive())
        assert change.item() == pytest.approx(0.5)
        assert surer.item() == pytest.approx(math.log(2))


def test_a_change_that_is_certain_is_a_change():
    """Every draw says the same, and something else than what is known now."""
    change, surer = spread(
        torch.tensor([[0.9, 0.1]] * 3).double(), torch.tensor([0.6, 0.4]).double(), Exclusive()
    )
    assert change.item() == pytest.approx(0.3)
    assert surer.item() == pytest.approx(0, abs=1e-12)


def test_spread_of_many_labels():
    """Each label is a yes or no of its own; the third never moves."""
    p = torch.tensor([[1.0, 1, 0.3], [0, 1, 0.3]], dtype=torch.float64)
    change, surer = spread(p, p.mean(0), Independent())
    assert change.item() == pytest.approx(0.5 / 3)
    assert surer.item() == pytest.approx(math.log(2))


def test_multilabel_is_passed_on():
    model = Stub([0.0, 2.0, 0.0, 0.0], multilabel=True)
    test = rank_next_tests(model, encoded([[1, 0, 1, 1]]), draws=50)[0]
    x = model.imagine(
        SimpleNamespace(m=torch.tensor([[1, 0, 1, 1]]).bool(), H=torch.zeros(1, 4, 1)),
        view=torch.ones(1, 4, dtype=torch.bool), draws=50, seed=0,
    )  # fmt: skip
    own = float(encoded([[1, 0, 1, 1]]).H.nan_to_num().sum())
    now = model.logits_from(torch.full((1,), own)).softmax(-1).double()
    change, _ = spread(model.logits_from(x + own).softmax(-1).double(), now, Independent())
    assert test.expected_change == pytest.approx(change.item(), rel=1e-6)


def test_what_a_modality_usually_changes_stands_beside_it():
    model = Stub([1.0, 3.0, 1.0, 0.0])
    assert {t.usual_change for t in rank_next_tests(model, encoded([[1, 0, 0, 0]]))} == {None}
    model.second_stage = SimpleNamespace(change=torch.tensor([0.1, 0.25, math.nan, 0.5]))
    found = {t.modality: t.usual_change for t in rank_next_tests(model, encoded([[1, 0, 0, 0]]))}
    assert found == {"ct": 0.25, "labs": None, "genes": 0.5}
