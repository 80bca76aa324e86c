"""The simple forecasts that a generator has to beat."""

from __future__ import annotations

import pytest
import torch

from robustmdiff.forecast.contract import EVIDENCE_LIMIT, EVIDENCE_UNIT, Pairs, Seen, total_evidence
from robustmdiff.forecast.donor import DonorForecast, first_of
from robustmdiff.forecast.neighbours import NeighboursForecast
from robustmdiff.forecast.ridge import RidgeForecast, solve
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.ops import philox_key
from tests.forecast import world

KEY = philox_key(4)


def of_class(pairs: Pairs, c: int) -> Pairs:
    return pairs.take(pairs.label[:, c] == 1)


@pytest.fixture(scope="module")
def ridge():
    ridge = RidgeForecast(world.D, world.M)
    ridge.fit(of_class(world.pairs(1500, seed=1), 0), KEY)
    return ridge


class TestRidge:
    def test_in_a_gaussian_world_it_is_exact_where_nothing_is_seen(self, ridge):
        """There the mean is a constant and the covariance one matrix."""
        others = of_class(world.pairs(200, seed=2), 0)
        nothing = others.take(~others.seen.m.any(1))
        mean, covariance = world.given_class(nothing.seen.y, nothing.seen.m, 0)
        draws = ridge.draw(nothing.seen, nothing.view, 4000, KEY)[0]
        sd = covariance[0].diagonal().sqrt()
        # 1,050 patients taught the mean: a standard error of .03 sd, and 4,000 draws show it to .016
        assert float(((draws.mean(0) - mean[0]) / sd).abs().max()) < 0.15
        torch.testing.assert_close(draws.T.cov(), covariance[0], atol=0.15 * float(sd.square().max()), rtol=0)

    def test_its_intervals_hold_what_they_promise(self, ridge):
        others = of_class(world.pairs(300, seed=2), 0)
        draws = ridge.draw(others.seen, others.view, 64, KEY).sort(1).values
        held = ((others.y > draws[:, 2]) & (others.y < draws[:, 61])).float().mean()
        assert abs(float(held) - 59 / 65) < 0.03

    def test_solve_is_the_least_squares_solution_without_a_penalty(self):
        x = torch.cat([torch.randn(50, 3, dtype=torch.float64), torch.ones(50, 1, dtype=torch.float64)], 1)
        y = torch.randn(50, 2, dtype=torch.float64)
        torch.testing.assert_close(solve(x, y, 1e-12), torch.linalg.lstsq(x, y).solution, atol=1e-6, rtol=0)


def hand_made(evidence: torch.Tensor, m: torch.Tensor, label: torch.Tensor) -> Pairs:
    """Evidence [n, M, F] of everything; head's part of the latent 0."""
    n, C = label.shape
    view = torch.ones_like(m)
    visible = evidence.masked_fill(~m[..., None], 0)
    zeros = torch.zeros(n, C)

    def latent(e):
        return torch.cat([total_evidence(e) / EVIDENCE_UNIT, zeros], -1)

    seen = Seen(latent(visible), m, visible, torch.full((n, C), 1 / C))
    known = torch.ones_like(label, dtype=torch.bool)
    who = torch.arange(n)
    return Pairs(seen, view, latent(evidence), evidence, label, known, who, who < 0)


def two_classes(n: int) -> Pairs:
    """Modality 0 says nothing, modality 1 says 2 nats for class 0 and -1 for class 1."""
    label = torch.eye(2).repeat(n // 2, 1)
    evidence = torch.stack([torch.zeros(n, 1), 2 * label[:, :1] - label[:, 1:]], dim=1)
    return hand_made(evidence, torch.tensor([[True, False]]).expand(n, -1), label)


class TestDonor:
    def test_what_is_hidden_is_lent_by_the_class_that_was_drawn(self):
        pairs = two_classes(40)
        donor = DonorForecast(torch.ones(4), EXCLUSIVE)
        donor.fit(pairs, KEY)
        seen = pairs.seen.take(torch.tensor([0, 1]))._replace(p=torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
        draws = donor.draw(seen, pairs.view[:2], 64, KEY)
        bounded = EVIDENCE_LIMIT * torch.tanh(torch.tensor([2.0, -1.0]) / EVIDENCE_LIMIT) / EVIDENCE_UNIT
        torch.testing.assert_close(draws[0, :, 0], bounded[0].expand(64))
        of_first = (draws[1, :, 0] - bounded[0]).abs() < 1e-5
        assert of_first.sum() == 16
        torch.testing.assert_close(draws[1, ~of_first, 0], bounded[1].expand(48))

    def test_what_is_seen_stays(self):
        """Modality 0 of this patient says 3 nats: nobody's else."""
        pairs = two_classes(40)
        donor = DonorForecast(torch.ones(4), EXCLUSIVE)
        donor.fit(pairs, KEY)
        seen = pairs.seen.take(torch.tensor([0]))
        seen = seen._replace(evidence=torch.tensor([[[3.0], [0.0]]]), p=torch.tensor([[1.0, 0.0]]))
        draws = donor.draw(seen, pairs.view[:1], 8, KEY)
        expected = total_evidence(torch.tensor([[3.0], [2.0]])) / EVIDENCE_UNIT
        torch.testing.assert_close(draws[0, :, 0], expected.expand(8))

    def test_evidence_counts_as_much_as_it_does_beside_so_many(self):
        """Two modalities together count half: of 3 nats alone and 2 lent, 2.5 are left."""
        pairs = two_classes(40)
        donor = DonorForecast(torch.tensor([1.0, 1.0, 0.5]), EXCLUSIVE)
        donor.fit(pairs._replace(evidence=pairs.evidence / 2), KEY)
        seen = pairs.seen.take(torch.tensor([0]))
        seen = seen._replace(evidence=torch.tensor([[[3.0], [0.0]]]), p=torch.tensor([[1.0, 0.0]]))
        draws = donor.draw(seen, pairs.view[:1], 8, KEY)
        expected = total_evidence(torch.tensor([[1.5], [1.0]])) / EVIDENCE_UNIT
        torch.testing.assert_close(draws[0, :, 0], expected.expand(8))

    def test_several_labels_are_lent_by_those_who_have_most_of_them(self):
        label = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        far = torch.tensor([[0, 0], [0, 1], [1, 0]])
        chosen = DonorForecast._choose(label, far[:, None].float(), torch.full((3, 1), 0.99))
        assert chosen[:2, 0].tolist() == [0, 1]
        assert chosen[2, 0] in (0, 2)  # no one has only the first label

    def test_each_row_again_with_what_another_of_its_class_would_show(self):
        """Modality 1 says of class 0 what nobody else's says: every patient of it comes to lend."""
        pairs = two_classes(400)
        own = torch.arange(400.0)[:, None] / 400 * pairs.label[:, :1]
        evidence = torch.stack([own, own - 2], dim=1)
        pairs = hand_made(evidence, pairs.seen.m, pairs.label)
        donor = DonorForecast(torch.ones(4), EXCLUSIVE)
        donor.fit(pairs, KEY)
        lent = donor.lend(pairs, KEY)
        torch.testing.assert_close(lent.evidence[:, 0], evidence[:, 0])  # what is seen stays
        first = pairs.label[:, 0] == 1
        torch.testing.assert_close(lent.evidence[~first], evidence[~first])  # all alike
        of = lent.evidence[first, 1].flatten()
        assert torch.isin(of, evidence[first, 1]).all()
        assert 100 < len(of.unique()) < 150  # 200 (1 - 1 / e) = 126 of 200
        assert torch.equal(lent.y[:, :1], total_evidence(lent.evidence) / EVIDENCE_UNIT)
        assert torch.equal(lent.y, donor.lend(pairs, KEY).y)

    def test_the_first_row_of_each(self):
        assert first_of(torch.tensor([3, 3, 1, 3, 1])).tolist() == [2, 0]


class TestNeighbours:
    def test_near_patients_asked_the_same_lend_their_change(self):
        """Fifty near and fifty far, each half with its own change; a third group was asked for less."""
        p = torch.cat([torch.tensor([[0.9, 0.1]]).expand(50, -1), torch.tensor([[0.1, 0.9]]).expand(50, -1)])
        p = torch.cat([p, p])
        n = len(p)
        m = torch.tensor([[True, False, False]]).expand(n, -1)
        view = torch.cat([torch.ones(100, 3), torch.tensor([[1.0, 1, 0]]).expand(100, -1)]).bool()
        evidence = torch.zeros(n, 3, 0)
        y = torch.randn(n, 2)
        change = torch.cat([torch.full((50, 2), 1.0), torch.full((50, 2), 2.0), torch.full((100, 2), 9.0)])
        label = torch.zeros(n, 2)
        seen, who = Seen(y, m, evidence, p), torch.arange(n)
        pairs = Pairs(seen, view, y + change, evidence, label, label == 0, who, who < 0)
        near = NeighboursForecast()
        near.fit(pairs, KEY)
        asked = pairs.take(torch.tensor([3, 70]))
        draws = near.draw(asked.seen, asked.view, 64, KEY) - asked.seen.y[:, None]
        torch.testing.assert_close(draws[0], torch.full((64, 2), 1.0))
        torch.testing.assert_close(draws[1], torch.full((64, 2), 2.0))

    def test_a_question_that_nobody_was_asked_goes_to_those_asked_as_much(self):
        pairs = two_classes(40)
        near = NeighboursForecast()
        near.fit(pairs, KEY)
        other_way = pairs.seen.take(torch.tensor([0]))._replace(m=torch.tensor([[False, True]]))
        draws = near.draw(other_way, pairs.view[:1], 16, KEY)
        assert draws.shape == (1, 16, 3)
        assert draws.isfinite().all()


@pytest.mark.parametrize("kind", ["ridge", "neighbours", "donor"])
def test_a_patients_draws_are_its_own_and_repeat(kind):
    rival = {
        "ridge": RidgeForecast(world.D, world.M),
        "neighbours": NeighboursForecast(),
        "donor": DonorForecast(torch.ones(4), EXCLUSIVE),
    }[kind]
    rival.fit(world.pairs(60, seed=1), KEY)
    others = world.pairs(5, seed=2)
    both = rival.draw(others.seen, others.view, 9, KEY)
    some = torch.tensor([4, 11, 30])
    alone = rival.draw(others.seen.take(some), others.view[some], 9, KEY)
    torch.testing.assert_close(alone, both[some], atol=1e-5, rtol=1e-5)
    assert torch.equal(both, rival.draw(others.seen, others.view, 9, KEY))
    assert not torch.equal(both, rival.draw(others.seen, others.view, 9, philox_key(5)))
    nothing_new = rival.draw(others.seen, others.seen.m, 9, KEY)
    assert torch.equal(nothing_new, others.seen.y[:, None].expand_as(nothing_new))
