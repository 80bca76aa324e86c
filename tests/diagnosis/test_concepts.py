from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from robustmdiff.data.kinds.text import Texts
from robustmdiff.data.tokenizer import tokenize
from robustmdiff.diagnosis.concepts import DiseaseTable, Evidence
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.models import NAME_TOKENS
from robustmdiff.ops import Graph


def test_a_concept_starts_from_its_name_as_the_text_encoder_reads_it(study):
    """Each name alone through the encoder, then mean, own vector, norm and graph: K."""
    model = study.model()
    concepts, text = model.concepts, model.encoders.encoders["text"]
    names = []
    for name in study.cohort.concepts().name:
        ids = torch.tensor(tokenize(study.tokenizer, name, NAME_TOKENS)[0])
        names.append(text(Texts(torch.tensor([0]), ids, torch.tensor([len(ids)])))[0].mean(0))
    graph = Graph(*(getattr(concepts, f"graph_{field}") for field in Graph._fields))
    expected = concepts.attend(concepts.norm(concepts.own + torch.stack(names)), graph)
    torch.testing.assert_close(concepts(text), expected, rtol=1e-4, atol=1e-5)


def test_the_diagnosis_teaches_the_text_encoder_what_concepts_are_called(study):
    model = study.model()
    model.concepts(model.encoders.encoders["text"]).square().sum().backward()
    words = model.encoders.encoders["text"].bert.embeddings.word_embeddings.weight
    assert bool(words.grad.abs().sum() > 0)


def test_without_text_a_concept_has_a_vector_of_its_own(study):
    task = replace(
        study.cohort.task, modalities=tuple(m for m in study.cohort.task.modalities if m.kind != "text")
    )
    model = RobustMDiff(task, study.config, study.cohort.concepts())
    assert model.text is None
    assert model.concepts(None).shape == (len(study.cohort.concepts()), study.config.d_h)


def test_the_table_is_bayes_rule_over_all_findings():
    """p(evidence | c) = sum over findings of prod_f p(f | c) p(evidence_f | f), up to a constant."""
    torch.manual_seed(1)
    table = DiseaseTable(torch.rand(3, 4, dtype=torch.float64))
    frequency = table.T().detach()
    evidence = 3 * torch.randn(4, dtype=torch.float64)
    exact = torch.zeros(3, dtype=torch.float64)
    for states in itertools.product([0, 1], repeat=4):
        s = torch.tensor(states, dtype=torch.float64)
        prior = (frequency * s + (1 - frequency) * (1 - s)).prod(1)
        exact += prior * torch.exp((evidence * s).sum())  # likelihood ratio against "finding absent"
    torch.testing.assert_close(table(evidence), exact.log(), rtol=1e-9, atol=1e-9)


def test_the_probability_of_a_finding_is_bayes_rule_too():
    torch.manual_seed(2)
    table = DiseaseTable(torch.rand(3, 5, dtype=torch.float64))
    frequency = table.T().detach()
    evidence, p = torch.randn(5, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    odds = frequency / (1 - frequency) * evidence.exp()
    expected = (p[:, None] * odds / (1 + odds)).sum(0)
    torch.testing.assert_close(table.findings(evidence, p), expected)


def test_no_evidence_says_nothing():
    torch.testing.assert_close(DiseaseTable(torch.rand(2, 3))(torch.zeros(3)), torch.zeros(2))


@pytest.mark.parametrize("lengths", [[[3, 1], [0, 2], [4, 0]], [[0, 0], [0, 0], [0, 1]]], ids=str)
def test_evidence_is_what_its_formula_says(lengths):
    torch.manual_seed(3)
    B, M, d, F = 3, 2, 6, 5
    layer = Evidence(d, M, F).double()
    torch.nn.init.normal_(layer.b)
    length = torch.tensor(lengths, dtype=torch.int32)
    start = torch.zeros_like(length)
    total = 0
    for m in range(M):  # tokens lie modality by modality
        for b in range(B):
            start[b, m], total = total, total + int(length[b, m])
    tokens, K = torch.randn(total, d).double(), torch.randn(F, d).double()
    got = layer(tokens, torch.stack([start, length], -1), K)
    KE = layer.E(K)
    for b, m in itertools.product(range(B), range(M)):
        n = int(length[b, m])
        if n == 0:
            continue
        x = layer.norm(tokens[start[b, m] : start[b, m] + n])
        a = (layer.Q(x) @ KE.T / d**0.5).softmax(0)
        torch.testing.assert_close(got[b, m], (a * (layer.V(x) @ KE.T)).sum(0) + layer.b[m])
    got.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


def test_evidence_of_a_batch_without_any_token():
    layer = Evidence(4, 2, 3)
    assert (
        layer(torch.zeros(0, 4), torch.zeros(2, 2, 2, dtype=torch.int32), torch.randn(3, 4)).isfinite().all()
    )
