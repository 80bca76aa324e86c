from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from robustmdiff.diagnosis.concepts import DiseaseTable
from robustmdiff.diagnosis.signs import BACKGROUND, SURE, TRUST, Signs, believed, class_frequencies, signs_of
from robustmdiff.labels import Exclusive, Independent


def test_the_signs_of_a_task_are_its_findings_or_else_its_classes(study):
    task = study.cohort.task
    bare = dataclasses.replace(task, findings=())
    assert signs_of(task, classes=True) == signs_of(task, classes=False) == Signs(task.findings, "finding")
    assert signs_of(bare, classes=True) == Signs(task.classes, "disease")
    assert signs_of(bare, classes=False).names == ()


def test_what_is_true_of_a_sign_is_the_label_of_its_kind(study):
    batch = study.collator(study.patients)
    for kind, of in (("finding", "findings"), ("disease", "label")):
        holds, known = Signs((), kind).truth(batch)
        assert torch.equal(holds, getattr(batch, of))
        assert torch.equal(known, getattr(batch, f"{of}_known"))


def test_a_sign_has_the_row_of_the_concept_of_its_name_and_kind(study):
    concepts, task = study.cohort.concepts(), study.cohort.task
    for kind, names in (("finding", task.findings), ("disease", task.classes)):
        rows = Signs(names, kind).rows(concepts).tolist()
        assert [(concepts.kind[i], concepts.name[i]) for i in rows] == [(kind, name) for name in names]


def test_how_frequent_a_sign_is_follows_from_the_classes():
    of_class = torch.tensor([0.5, 0.25, 0.25])
    given_class = torch.tensor([[0.2, 0.0], [0.8, 1.0], [0.4, 0.0], [1.0, 1.0]])  # the last is no class
    found = Signs(("a", "b"), "finding").prevalence(of_class, given_class)
    torch.testing.assert_close(found, torch.tensor([0.4, 0.25]))
    assert torch.equal(Signs(("x", "y", "z"), "disease").prevalence(of_class, given_class), of_class)


def test_a_class_that_is_its_own_sign_needs_a_concept(study):
    with pytest.raises(ValueError, match=r"concepts lack the diseases \['hiccups'\], expected one for each"):
        Signs(("hiccups",), "disease").rows(study.cohort.concepts())


@pytest.mark.parametrize("labels", [Exclusive(), Independent()], ids=["one-label", "many-labels"])
def test_evidence_for_a_class_speaks_for_that_class_alone(study, labels):
    """Of one label it moves the odds against every other class alike; of many only the class's own."""
    task = dataclasses.replace(study.cohort.task, findings=())
    given = signs_of(task, classes=True).given_class(task, study.cohort.concepts(), labels)
    table, C, c, x = DiseaseTable(given.double(), learned=False), len(task.classes), 4, 3.0
    evidence = torch.zeros(C, dtype=torch.float64)
    evidence[c] = x
    says = labels.contrast(table(evidence))
    odds = math.log((1 + SURE * (math.exp(x) - 1)) / (1 + (1 - SURE) * (math.exp(x) - 1)))
    others = torch.tensor([i for i in range(C) if i != c])
    torch.testing.assert_close(says[c] - says[others], torch.full((C - 1,), odds, dtype=torch.float64))
    if not labels.exclusive:
        torch.testing.assert_close(says[others], torch.zeros(C - 1, dtype=torch.float64))
    assert not table.correction.requires_grad


def test_frequencies_arrive_in_the_tasks_order(study):
    concepts, task = study.cohort.concepts(), study.cohort.task
    frequency = class_frequencies(task, concepts, Exclusive())
    assert frequency.shape == (12, 42)
    c, f = 7, 20
    disease = [concepts.name[i] for i in concepts.indices("disease")].index(task.classes[c])
    finding = [concepts.name[i] for i in concepts.indices("finding")].index(task.findings[f])
    assert float(frequency[c, f]) == pytest.approx(float(concepts.frequency[disease, finding]), nan_ok=True)


def test_a_frequency_is_believed_in_part_and_an_unknown_one_is_background():
    nan = float("nan")
    found = believed(torch.tensor([[0.6, nan, nan], [0.2, 0.9, nan]]))
    rest = 1 - TRUST
    expected = [
        [TRUST * 0.6 + rest * 0.4, TRUST * BACKGROUND + rest * 0.9, BACKGROUND],
        [TRUST * 0.2 + rest * 0.4, 0.9, BACKGROUND],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_one_wrong_entry_cannot_rule_a_disease_out():
    """The table says that the finding never occurs in disease 0; it does in others."""
    table = DiseaseTable(believed(torch.tensor([[0.0], [0.8], [0.4]])))
    certain = torch.tensor([20.0])
    log_likelihood = table(certain).detach()
    assert float(log_likelihood[0] - log_likelihood[1]) > -3.0  # nats; believed blindly it would be -4.4
