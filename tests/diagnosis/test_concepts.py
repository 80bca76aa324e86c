from __future__ import annotations

import itertools

import pytest
import torch

from robustmdiff.diagnosis.concepts import BACKGROUND, DiseaseTable, FindingEvidence


def test_the_table_is_bayes_rule_over_all_findings():
    """p(evidence | c) = sum over findings of prod_f p(f | c) p(evidence_f | f), up to a constant."""
    torch.manual_seed(1)
    frequency = torch.rand(3, 4, dtype=torch.float64).clamp(0.05, 0.95)
    evidence = 3 * torch.randn(4, dtype=torch.float64)
    exact = torch.zeros(3, dtype=torch.float64)
    for states in itertools.product([0, 1], repeat=4):
        s = torch.tensor(states, dtype=torch.float64)
        prior = (frequency * s + (1 - frequency) * (1 - s)).prod(1)
        exact += prior * torch.exp((evidence * s).sum())  # likelihood ratio against "finding absent"
    table = DiseaseTable(frequency.clamp(0.01, 0.98))
    torch.testing.assert_close(table(evidence), exact.log(), rtol=1e-9, atol=1e-9)


def test_the_probability_of_a_finding_is_bayes_rule_too():
    torch.manual_seed(2)
    frequency = torch.rand(3, 5, dtype=torch.float64).clamp(0.05, 0.95)
    evidence, p = torch.randn(5, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    odds = frequency / (1 - frequency) * evidence.exp()
    expected = (p[:, None] * odds / (1 + odds)).sum(0)
    torch.testing.assert_close(DiseaseTable(frequency).findings(evidence, p), expected)


def test_no_evidence_says_nothing_and_unknown_frequencies_are_background():
    table = DiseaseTable(torch.tensor([[0.5, float("nan")], [float("nan"), 0.9]]))
    assert torch.equal(table(torch.zeros(2)), torch.zeros(2))
    torch.testing.assert_close(table.T(), torch.tensor([[0.5, BACKGROUND], [BACKGROUND, 0.9]]))


@pytest.mark.parametrize("lengths", [[[3, 1], [0, 2], [4, 0]], [[0, 0], [0, 0], [0, 1]]], ids=str)
def test_evidence_is_what_its_formula_says(lengths):
    torch.manual_seed(3)
    B, M, d, F = 3, 2, 6, 5
    layer = FindingEvidence(d, M, F).double()
    torch.nn.init.normal_(layer.b)
    length = torch.tensor(lengths, dtype=torch.int32)
    start = torch.zeros_like(length)
    total = 0
    for m in range(M):  # tokens lie modality by modality
        for b in range(B):
            start[b, m], total = total, total + int(length[b, m])
    tokens, KR = torch.randn(total, d).double(), torch.randn(F, d).double()
    got = layer(tokens, torch.stack([start, length], -1), KR)
    for b, m in itertools.product(range(B), range(M)):
        n = int(length[b, m])
        if n == 0:
            continue
        x = layer.norm(tokens[start[b, m] : start[b, m] + n])
        a = (layer.Q(x) @ KR.T / d**0.5).softmax(0)
        torch.testing.assert_close(got[b, m], (a * (layer.V(x) @ KR.T)).sum(0) + layer.b[m])
    got.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


def test_evidence_of_a_batch_without_any_token():
    layer = FindingEvidence(4, 2, 3)
    assert (
        layer(torch.zeros(0, 4), torch.zeros(2, 2, 2, dtype=torch.int32), torch.randn(3, 4)).isfinite().all()
    )
