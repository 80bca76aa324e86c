from __future__ import annotations

import pytest
import torch

from robustmdiff.labels import Exclusive, Independent
from robustmdiff.training.rare import class_frequency, class_weights, rare_weights

BOTH = pytest.mark.parametrize("labels", [Exclusive(), Independent()], ids=["one-label", "many-labels"])


def one_hot(classes: list[int], C: int) -> torch.Tensor:
    return torch.eye(C)[classes]


def test_weights_are_the_papers():
    label = one_hot([0] * 12 + [1] * 6 + [2] * 2, 4)  # class 3 has nobody
    known = torch.ones_like(label, dtype=torch.bool)
    torch.testing.assert_close(
        class_frequency(label, known), torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64)
    )
    expected = torch.tensor([1, 2**0.5, 6**0.5, 1], dtype=torch.float64)
    torch.testing.assert_close(class_weights(label, known, gamma=0.5), expected)
    assert torch.equal(class_weights(label, known, gamma=0.0), torch.ones(4).double())


def test_a_patient_weighs_what_their_class_does_and_the_mean_is_one():
    label = one_hot([0] * 12 + [1] * 6 + [2] * 2, 4)
    found = rare_weights(Exclusive(), label, torch.ones_like(label).bool(), 0.5)
    raw = torch.tensor([1.0] * 12 + [2**0.5] * 6 + [6**0.5] * 2, dtype=torch.float64)
    torch.testing.assert_close(found.loss[label > 0].double(), raw / raw.mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.log_weight, torch.tensor([1, 2**0.5, 6**0.5, 1]).log())
    assert found.draw is None


def test_of_many_labels_cells_weigh_and_the_mean_of_the_known_is_one():
    label = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    known = torch.ones_like(label, dtype=torch.bool)
    known[3, 2] = False  # its rare class is not known: counts as absent, and not in the frequency
    found = rare_weights(Independent(), label, known, gamma=1.0)
    raw = torch.ones(5, 3, dtype=torch.float64)
    raw[0, 1] = 4.0  # f = (.8, .2, 0)
    torch.testing.assert_close(found.loss.double(), raw / raw[known].mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.log_weight, torch.tensor([1.0, 4, 1]).log())


@BOTH
def test_drawn_patients_weigh_alike_and_come_by_their_rarest_class(labels):
    label = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    if labels.exclusive:
        label = one_hot([0, 0, 0, 0, 1], 3)
    found = rare_weights(labels, label, torch.ones_like(label).bool(), 1.0, how="sample")
    draw = torch.tensor([1.0, 1, 1, 1, 4]) if labels.exclusive else torch.tensor([4.0, 1, 1, 4, 1])
    torch.testing.assert_close(found.draw, draw / draw.mean())
    assert torch.equal(found.loss, torch.ones(5, 3))


def test_many_labels_of_drawn_patients_are_higher_by_the_odds_of_their_frequency():
    label = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    found = rare_weights(Independent(), label, torch.ones_like(label).bool(), 1.0, how="sample")
    drawn = found.draw[:, None] * label
    odds = [f / (1 - f) for f in (label.mean(0), drawn.sum(0) / found.draw.sum())]
    torch.testing.assert_close(found.log_weight, (odds[1] / odds[0]).log())


@BOTH
@pytest.mark.parametrize("how", ["weight", "sample"])
def test_where_nothing_is_known_or_gamma_is_0_all_weigh_alike(labels, how):
    label, nothing = one_hot([0, 0, 1], 2), torch.zeros(3, 2, dtype=torch.bool)
    for known, gamma in ((nothing, 0.5), (~nothing, 0.0)):
        found = rare_weights(labels, label, known, gamma, how)
        assert torch.equal(found.loss, torch.ones(3, 2))
        assert found.draw is None or torch.equal(found.draw, torch.ones(3))
        assert torch.equal(found.log_weight, torch.zeros(2))


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match=r"gamma is -0\.5"):
        class_weights(torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool), -0.5)
