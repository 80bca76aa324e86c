"""What one label and many labels have each their own rule for, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy, cross_entropy

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.labels import Exclusive, Independent

LOGITS = torch.tensor([[1.0, -2, 0.5], [0, 3, -1]], dtype=torch.float64)
ONE = torch.ones(2, 3, dtype=torch.float64)
WEIGHT = torch.tensor([[0.5, 1, 2], [3, 1.5, 1]], dtype=torch.float64)
BOTH = pytest.mark.parametrize("labels", [Exclusive(), Independent()], ids=["one-label", "many-labels"])


def test_a_task_says_which_it_is():
    modalities = (Modality("m", "values", fields=(Field("x"),)),)
    assert Task(modalities, ("a", "b"), (0.4, 0.6)).labels.exclusive
    assert not Task(modalities, ("a", "b"), (0.4, 0.4), multilabel=True).labels.exclusive


@BOTH
def test_the_log_prior_gives_the_prevalence_back(labels):
    p = (0.5, 0.3, 0.2)
    torch.testing.assert_close(labels.probability(labels.log_prior(p)), torch.tensor(p))
    assert labels.log_prior((0.0, 1.0)).isfinite().all()


def test_one_label_is_a_softmax_and_counts_where_the_class_is_known():
    label = torch.tensor([[0.0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    known = torch.tensor([[True, True, True], [True, False, True]])  # not which class the second one has
    expected = cross_entropy(LOGITS, torch.tensor([2, 1]), reduction="none")
    loss = Exclusive().loss(LOGITS, label, known, ONE)
    torch.testing.assert_close(loss, expected * torch.tensor([1, 0]))
    torch.testing.assert_close(Exclusive().loss(LOGITS, label, torch.ones_like(known), ONE), expected)


def test_an_unknown_cell_counts_nothing_and_makes_no_other_count_more():
    label = torch.tensor([[1.0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    known = torch.tensor([[True, False, True], [False, False, False]])
    each = binary_cross_entropy(LOGITS.sigmoid(), label, reduction="none")
    expected = torch.stack([(each[0, 0] + each[0, 2]) / 3, each.new_zeros(())])
    torch.testing.assert_close(Independent().loss(LOGITS, label, known, ONE), expected)


def test_the_gradient_of_many_labels_is_p_minus_y_also_at_0():
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    label, known = torch.tensor([[1.0, 0.0]]).double(), torch.ones(1, 2).bool()
    Independent().loss(logits, label, known, torch.ones(1, 2)).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.25]], dtype=torch.float64))


@BOTH
def test_several_answers_of_a_patient_are_scored_by_the_same_label(labels):
    label = torch.tensor([[0.0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    known = torch.ones(2, 3, dtype=torch.bool)
    several = torch.stack([LOGITS, -LOGITS], dim=1)  # [B, R, C]
    each = [labels.loss(logits, label, known, WEIGHT) for logits in (LOGITS, -LOGITS)]
    together = labels.loss(several, label[:, None], known[:, None], WEIGHT[:, None])
    torch.testing.assert_close(together, torch.stack(each, dim=1))


@BOTH
def test_a_weight_counts_what_the_loss_reads(labels):
    """Where nothing is read a weight changes nothing."""
    label = torch.tensor([[0.0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    known = torch.tensor([[True, True, True], [True, False, True]])
    counted = labels.counted(label, known)
    each = [[0, 0, 1], [0, 0, 0]] if labels.exclusive else known.tolist()
    assert torch.equal(counted, torch.tensor(each).bool())
    before = labels.loss(LOGITS, label, known, WEIGHT)
    assert torch.equal(labels.loss(LOGITS, label, known, WEIGHT.where(counted, torch.tensor(9.0))), before)
    torch.testing.assert_close(labels.loss(LOGITS, label, known, 2 * WEIGHT), 2 * before)


@BOTH
def test_likelihood_is_the_probability_of_what_is_so(labels):
    label = torch.tensor([[0.0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    known = torch.ones(2, 3, dtype=torch.bool)
    p = labels.likelihood(LOGITS, label)[labels.counted(label, known)]
    torch.testing.assert_close(p, (-labels.surprise(labels.probability(LOGITS), label, known)).exp())
    sure = labels.likelihood(torch.tensor([90.0, 0.0]).double(), torch.tensor([0.0, 1.0]))
    assert sure[1] > 0  # 1 - p would be 0 of the first of many labels
    assert labels.exclusive or 0 < sure[0] < 1e-38


def test_surprise_is_minus_log_p_of_what_is_so():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    label, known = torch.tensor([[0.0, 1, 0], [1, 0, 0]]), torch.tensor([[True, True, False]] * 2)
    torch.testing.assert_close(Exclusive().surprise(p, label, known), -torch.tensor([0.2, 0.3]).log())
    expected = -torch.tensor([0.3, 0.2, 0.3, 0.7]).log()
    torch.testing.assert_close(Independent().surprise(p, label, known), expected)


def test_entropy_of_even_odds_and_of_certainty():
    even, certain = torch.full((4,), 0.25), torch.tensor([1.0, 0, 0, 0])
    assert float(Exclusive().entropy(even)) == pytest.approx(math.log(4))
    assert float(Independent().entropy(torch.full((3,), 0.5))) == pytest.approx(3 * math.log(2))
    for labels in (Exclusive(), Independent()):
        assert float(labels.entropy(certain)) == 0


def test_distance_is_total_variation():
    p, q = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    assert float(Exclusive().distance(p, q)) == 1
    assert float(Independent().distance(p, q)) == pytest.approx(2 / 3)


def test_many_labels_are_weighed_against_the_background():
    torch.testing.assert_close(Independent().contrast(torch.tensor([3.0, 1, 2])), torch.tensor([1.0, -1]))
    assert (Exclusive().hypotheses(5), Independent().hypotheses(5)) == (5, 6)


# Of five patients and three classes
YES = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=bool)
SAID = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]], dtype=bool)


def test_of_one_label_exactly_one_holds_and_says_no_of_the_others():
    assert Exclusive().impossible(YES, SAID).tolist() == [False, True, True, False, False]
    implied = Exclusive().implied(YES, SAID)
    assert implied[[0, 4]].all()  # a class that holds excludes the others
    assert implied[[3]].tolist() == [[True, False, False]]  # one that does not says nothing of them
    assert not Independent().impossible(YES, SAID).any()
    assert np.array_equal(Independent().implied(YES, SAID), SAID)


def test_a_prevalence_adds_one_to_the_count_of_each_answer():
    assert Exclusive().prevalence([3, 1, 0], [9, 9, 9]) == (4 / 7, 2 / 7, 1 / 7)  # three answers
    assert Independent().prevalence([3, 0], [4, 0]) == (4 / 6, 1 / 2)  # two, yes and no, of each


def test_a_claim_is_the_likeliest_class_or_every_known_cell():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.5, 0.2, 0.3]])
    assert Exclusive().diagnosed(YES, SAID).tolist() == [True, False, False, False, True]
    row, stated, right = Exclusive().claims(p, YES, SAID)
    assert (row.tolist(), stated.tolist(), right.tolist()) == ([0, 4], [0.6, 0.5], [True, False])
    silent = SAID & (np.arange(5) != 3)[:, None]
    assert Independent().diagnosed(YES, silent).tolist() == [True, True, True, False, True]
    row, stated, right = Independent().claims(p, YES, SAID)
    assert row.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    assert stated.tolist() == p[SAID].tolist()
    assert right.sum() == 4


def test_a_set_of_one_label_is_never_empty():
    p, quantile = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]), np.full((2, 3), 0.3)
    assert Independent().prediction_sets(p, quantile).tolist() == [[False] * 3, [False, False, True]]
    assert Exclusive().prediction_sets(p, quantile).tolist() == [[True, False, False], [False, False, True]]


def test_what_holds_is_drawn_as_uniform_numbers_decide():
    p, u = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.1, 0.6, 0.9]], dtype=torch.float64)
    one = Exclusive().drawn(p, u)
    assert torch.equal(one[0], torch.eye(3))  # [0, .5), [.5, .75), [.75, 1)
    each = torch.stack([u[0], u[0], u[0] / 4])
    assert (Exclusive().choices(3), Independent().choices(3)) == (1, len(each))
    expected = torch.tensor([[1.0, 1, 1], [0, 0, 1], [0, 0, 1]])
    assert torch.equal(Independent().drawn(p, each)[0], expected)
