"""T and a against another optimiser's, and that neither flatters the prediction sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.diagnosis.temperature import ENOUGH, FEW, Said, fit_temperature, held_out
from robustmdiff.labels import Exclusive, Independent

BOTH = pytest.mark.parametrize("labels", [Exclusive(), Independent()], ids=["one-label", "many-labels"])
LOG_W = torch.tensor([0.0, 0.7, 1.4, 2.1], dtype=torch.float64)
C = len(LOG_W)


def said(labels, n, *, T=2.0, a=0.6, draws=None, sizes=3, seed=0, noise=0.7) -> Said:
    """Rows whose truth follows from z, of which a model says T (z + a log w), with noise in each draw."""
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, C, generator=g, dtype=torch.float64) - LOG_W
    p = labels.probability(z)
    u = torch.rand(n, C, generator=g, dtype=torch.float64)
    label = torch.eye(C)[(u[:, :1] > p.cumsum(1)[:, :-1]).sum(1)] if labels.exclusive else (u < p).float()
    heard = z if draws is None else z + noise * torch.randn(draws, n, C, generator=g, dtype=torch.float64)
    known = torch.ones(n, C, dtype=torch.bool)
    visible = 1 + torch.arange(n) % sizes
    weight = torch.ones(n, dtype=torch.float64)
    return Said(T * (heard + a * LOG_W), visible, label, known, torch.arange(n), weight)


def by_hand(rows: Said, labels, people: int, start=(0.0, 1.0)) -> np.ndarray:
    """(log T, a) by a simplex search on sums written out in numpy."""
    logits, label = np.atleast_3d(rows.logits.numpy().T).T, rows.label.numpy()  # [S, n, C]

    def loss(at):
        x = logits / np.exp(at[0]) - at[1] * LOG_W.numpy()
        if labels.exclusive:
            p = (np.exp(x) * label).sum(-1) / np.exp(x).sum(-1)
        else:
            p = 1 / (1 + np.exp(-x))
            p = np.where(label == 1, p, 1 - p)
        return -np.log(p.mean(0)).mean() + ((at - start) ** 2).sum() / 2 / people

    return minimize(loss, np.array(start), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-13}).x


@BOTH
@pytest.mark.parametrize("draws", [None, 4])
def test_they_have_the_least_log_loss(labels, draws):
    rows = said(labels, 3 * ENOUGH, draws=draws)
    found = fit_temperature(rows, 3, labels, LOG_W)
    everybody = by_hand(rows, labels, 3 * ENOUGH)
    torch.testing.assert_close(found.T[0].log(), torch.tensor(everybody[0]), rtol=0, atol=1e-4)
    for k in (1, 2, 3):
        own = by_hand(rows.where(rows.visible == k), labels, ENOUGH, everybody)
        np.testing.assert_allclose([found.T[k].log(), found.a[k]], own, atol=1e-4)


@BOTH
def test_they_are_those_that_the_truth_was_shifted_by(labels):
    rows = said(labels, 20_000, sizes=1)
    found = fit_temperature(rows, 1, labels, LOG_W)
    assert float(found.T[1]) == pytest.approx(2.0, rel=0.1)
    assert float(found.a[1]) == pytest.approx(0.6, abs=0.06)


@BOTH
@pytest.mark.parametrize("n", [FEW, 40, 3 * ENOUGH])
@pytest.mark.parametrize("T", [0.2, 1.0, 30.0])
def test_the_loss_is_never_more_than_without_them(labels, n, T):
    one = torch.ones(4, dtype=torch.float64)
    for seed in range(3):
        rows = said(labels, n, T=T, a=2.0 * seed, draws=3 if seed else None, seed=seed)
        found = fit_temperature(rows, 3, labels, LOG_W)
        before = type(found)(one, one).log_loss(rows, labels, LOG_W)
        assert found.log_loss(rows, labels, LOG_W) <= before
        again = fit_temperature(rows, 3, labels, LOG_W)
        assert torch.equal(found.T, again.T)
        assert torch.equal(found.a, again.a)


def test_of_few_people_it_is_everybodys_and_of_fewer_nothing_is_fitted():
    labels, rows = Exclusive(), said(Exclusive(), 3 * ENOUGH)
    found = fit_temperature(rows.where(rows.visible != 2), 3, labels, LOG_W)
    assert found.T[2] == found.T[0] != found.T[1]
    many_rows_of_few = rows._replace(person=torch.arange(3 * ENOUGH) % (FEW - 1))
    found = fit_temperature(many_rows_of_few, 3, labels, LOG_W)
    assert found.T.tolist() == found.a.tolist() == [1] * 4
    nobody_visible = rows._replace(visible=torch.zeros(3 * ENOUGH, dtype=torch.long))
    assert fit_temperature(nobody_visible, 3, labels, LOG_W).T.tolist() == [1] * 4


@BOTH
def test_a_sample_enriched_with_rare_patients_counts_as_the_population_does(labels):
    """Twice the weight is the same patient twice, but for who counts as a person."""
    rows = said(labels, 2 * ENOUGH, sizes=1)
    twice = torch.arange(2 * ENOUGH).repeat_interleave(1 + (rows.label[:, 3] == 0).long())
    repeated = Said(rows.logits[twice], *(column[twice] for column in rows[1:]))
    weighted = rows._replace(weight=1.0 + (rows.label[:, 3] == 0))
    found, expected = (fit_temperature(each, 1, labels, LOG_W) for each in (weighted, repeated))
    torch.testing.assert_close(found.T, expected.T, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.a, expected.a, rtol=1e-6, atol=0)


@BOTH
def test_without_class_weights_there_is_nothing_to_take_off(labels):
    found = fit_temperature(said(labels, 3 * ENOUGH), 3, labels, torch.zeros(C, dtype=torch.float64))
    assert found.a.tolist() == [1] * 4
    assert (found.T != 1).all()


@BOTH
def test_patients_told_apart_without_error_get_a_temperature(labels):
    rows = said(labels, ENOUGH, sizes=1)
    rows = rows._replace(logits=3.0 * (2 * rows.label.double() - 1))
    found = fit_temperature(rows, 1, labels, torch.zeros(C, dtype=torch.float64))
    assert 0.1 < found.T[1] < 1
    p = found.probability(rows, labels, torch.zeros(C, dtype=torch.float64))
    assert p[rows.label == 1].min() > 0.99


@BOTH
def test_of_unknown_labels_nothing_is_learned(labels):
    rows = said(labels, 2 * ENOUGH, sizes=1)
    known = rows.known.clone()
    known[ENOUGH:] = False
    half = rows.where(torch.arange(2 * ENOUGH) < ENOUGH)
    found, expected = (fit_temperature(each, 1, labels, LOG_W) for each in (rows._replace(known=known), half))
    assert torch.equal(found.T, expected.T)


def test_nobody_helps_to_fit_the_temperature_of_their_own_answer():
    labels, rows = Exclusive(), said(Exclusive(), 60, sizes=1)
    p = held_out(rows, 1, labels, LOG_W)
    label = rows.label.clone()
    label[rows.person == 7] = torch.eye(C)[3 - int(label[7].argmax())]
    q = held_out(rows._replace(label=label), 1, labels, LOG_W)
    assert torch.equal(p[7], q[7])
    assert not torch.equal(p[8], q[8])
    of_two = rows._replace(person=torch.arange(60) // 2)  # both rows of a person are in the same part
    assert not torch.equal(held_out(of_two, 1, labels, LOG_W)[6], p[6])


def test_sets_on_other_peoples_temperatures_hold_what_they_promise():
    """Twenty calibrations of 60 people each, .9 promised; then every temperature is that of all 60."""
    labels, covered = Exclusive(), []
    for seed in range(20):
        rows, new = (said(labels, n, T=3.0, sizes=1, seed=s) for n, s in ((60, seed), (2000, 1000 + seed)))
        sets = ConformalSets.fit(
            held_out(rows, 1, labels, LOG_W).numpy(), rows.label.numpy(), np.ones((60, 1), dtype=bool)
        )
        p = fit_temperature(rows, 1, labels, LOG_W).probability(new, labels, LOG_W).numpy()
        held = sets.sets(p, np.ones((2000, 1), dtype=bool))
        covered.append(held[new.label.numpy() == 1].mean())
    error = np.std(covered) / len(covered) ** 0.5
    assert abs(np.mean(covered) - 55 / 61) < 3 * error + 0.01
