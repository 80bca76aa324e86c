from __future__ import annotations

import pytest
import torch

from robustmdiff.training.rare import class_frequency, rare_weights


def one_hot(classes: list[int], C: int) -> torch.Tensor:
    return torch.eye(C)[classes]


def test_weights_are_the_papers_and_have_mean_one():
    label = one_hot([0] * 12 + [1] * 6 + [2] * 2, 4)  # class 3 has nobody
    known = torch.ones_like(label, dtype=torch.bool)
    torch.testing.assert_close(
        class_frequency(label, known), torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64)
    )
    weight = rare_weights(label, known, gamma=0.5).double()
    raw = torch.tensor([1.0] * 12 + [2**0.5] * 6 + [6**0.5] * 2, dtype=torch.float64)
    torch.testing.assert_close(weight, raw / raw.mean(), rtol=1e-6, atol=0)
    assert torch.equal(rare_weights(label, known, gamma=0.0), torch.ones(20))


def test_multilabel_takes_the_rarest_positive_class():
    label = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    known = torch.ones_like(label, dtype=torch.bool)
    known[3, 2] = False  # its rare class is not known: counts as absent, and not in the frequency
    weight = rare_weights(label, known, gamma=1.0).double()
    raw = torch.tensor([4.0, 1, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(weight, raw / raw.mean(), rtol=1e-6, atol=0)


def test_no_positive_label_at_all_gives_equal_weights():
    label = torch.zeros(3, 2)
    assert torch.equal(rare_weights(label, torch.zeros(3, 2, dtype=torch.bool), 0.5), torch.ones(3))


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match=r"gamma is -0\.5"):
        rare_weights(torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool), -0.5)
