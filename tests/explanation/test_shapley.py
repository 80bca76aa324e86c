from __future__ import annotations

import pytest
import torch

from robustmdiff.diagnosis.contract import Diagnosis
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.explanation.shapley import modality_shapley


class Stub:
    """A "model" whose probabilities are a function of which modalities are there and their H."""

    def __init__(self, worth):
        self.worth, self.rows = worth, []

    def diagnose(self, encoded, *, draws=16, seed=0):
        present = encoded.m
        self.rows.append(len(present))
        return Diagnosis(torch.stack([self.worth(m, h) for m, h in zip(present, encoded.H, strict=True)]))


def encoded(presence, d=3):
    """Two tokens for each modality present, in a shuffled order of modalities."""
    presence = torch.tensor(presence, dtype=torch.bool)
    B, M = presence.shape
    segments = torch.zeros(B, M, 2, dtype=torch.int32)
    start = 0
    for i in reversed(range(M)):
        for b in range(B):
            if presence[b, i]:
                segments[b, i] = torch.tensor([start, 2])
                start += 2
    g = torch.Generator().manual_seed(0)
    H = torch.randn(B, M, d, generator=g).masked_fill(~presence[..., None], torch.nan)
    return Encoded(torch.randn(start, d, generator=g), segments, H)


def interacting(m, h):
    """Classes react to modalities 0 and 2 together, to 1 alone; 3 changes nothing."""
    s = 2.0 * (m[0] & m[2]) + 0.7 * m[1]
    return torch.tensor([s, 0.0, -s]).softmax(0).double()


def test_contributions_add_up():
    model = Stub(interacting)
    values = modality_shapley(model, encoded([[1, 1, 1, 1, 0]]))
    assert model.rows == [16]  # 2^4 subsets of what is present, in one call
    torch.testing.assert_close(values.nothing, torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(values.contribution.sum(0), values.everything - values.nothing)
    assert values.contribution[0].abs().max() > 0.1


def test_equal_players_get_equal_shares_and_idle_or_absent_ones_nothing():
    values = modality_shapley(Stub(interacting), encoded([[1, 1, 1, 1, 0]]))
    torch.testing.assert_close(values.contribution[0], values.contribution[2])
    assert (values.contribution[0] - values.contribution[1]).abs().max() > 0.01
    assert values.contribution[3].abs().max() < 1e-15
    assert (values.contribution[4] == 0).all()


def test_is_of_the_patient_asked_for_whatever_the_others_have():
    def worth(m, h):
        return (h.masked_fill(~m[:, None], 0).sum(0)).double().softmax(0)

    together = encoded([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    alone = Encoded(
        torch.zeros(6, 3),
        torch.tensor([[[0, 0], [0, 2], [2, 2], [4, 2]]], dtype=torch.int32),
        together.H[1:2],
    )
    values = modality_shapley(Stub(worth), together, patient=1)
    for ours, theirs in zip(values, modality_shapley(Stub(worth), alone), strict=True):
        assert torch.equal(ours, theirs)
    assert (values.contribution[0] == 0).all()
    assert values.contribution[1].abs().max() > 0


def test_nobody_home():
    values = modality_shapley(Stub(interacting), encoded([[0, 0, 0, 0]]))
    assert torch.equal(values.contribution, torch.zeros(4, 3, dtype=torch.float64))
    assert torch.equal(values.nothing, values.everything)


def test_too_many_players():
    with pytest.raises(ValueError, match="the patient has 13 modalities, expected at most 12"):
        modality_shapley(Stub(interacting), encoded([[1] * 13]))


def test_a_repeated_patient_keeps_its_own_tokens():
    original = encoded([[1, 0, 1], [1, 1, 0]])
    K = torch.rand(7, 3)
    evidence = torch.rand(2, 3, 4)
    copies = original._replace(evidence=evidence, K=K).repeat(1, 3)
    assert copies.segments.shape == (3, 3, 2)
    assert copies.K is K
    assert len(copies.tokens) == 3 * 4
    seen = set()
    for b in range(3):
        assert torch.equal(copies.H[b, :2], original.H[1, :2])
        assert torch.equal(copies.evidence[b], evidence[1])
        for (start, n), (start_0, n_0) in zip(
            copies.segments[b].tolist(), original.segments[1].tolist(), strict=True
        ):
            assert n == n_0
            assert torch.equal(copies.tokens[start : start + n], original.tokens[start_0 : start_0 + n])
            assert seen.isdisjoint(range(start, start + n))
            seen.update(range(start, start + n))
