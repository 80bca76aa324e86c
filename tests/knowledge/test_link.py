"""Names find their concept by certain steps only, and a task gets the part it can use."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.knowledge import ConceptTable, Ontology, Term, concepts_of_task, link

TERMS = (
    Term("D:1", "Pneumonia", "disease", "of the lung", synonyms=("lung inflammation",)),
    Term("D:2", "viral pneumonia", "disease", synonyms=("chest virus",)),
    Term("D:3", "COVID-19", "disease", synonyms=("corona", "chest virus")),
    Term("D:4", "Ménière's disease", "disease"),
    Term("D:5", "catarrh", "disease", synonyms=("cold",)),
    Term("D:6", "chill", "disease", synonyms=("cold",)),
    Term("F:1", "Pneumonia", "finding"),
    Term("F:2", "cough", "finding", synonyms=("tussis",)),
)


@pytest.fixture
def concepts() -> ConceptTable:
    return Ontology(
        {term.id: term for term in TERMS},
        {("D:2", "is_a", "D:1"): 1, ("D:3", "is_a", "D:2"): 2},
        {"D:3": 0.01},
        {("D:3", "F:2"): 0.6, ("D:2", "F:2"): 0.5},
    ).concepts()


@pytest.mark.parametrize(
    ("name", "id"),
    [
        pytest.param("COVID-19", "D:3", id="the-name"),
        pytest.param("D:3", "D:3", id="the-id"),
        pytest.param("corona", "D:3", id="a-synonym"),
        pytest.param("covid 19", "D:3", id="case-and-punctuation"),
        pytest.param("MENIERE'S disease", "D:4", id="accents"),
        pytest.param("Lung-Inflammation", "D:1", id="a-synonym-normalised"),
        pytest.param("chest virus", "D:2", id="the-more-general-of-two"),
        pytest.param("cold", None, id="two-unrelated-concepts"),
        pytest.param("pneumoni", None, id="nearly-a-name"),
        pytest.param("viral", None, id="part-of-a-name"),
        pytest.param("", None, id="no-name"),
        pytest.param("---", None, id="nothing-but-punctuation"),
    ],
)
def test_a_name_finds_its_concept_or_none(concepts, name, id):
    assert link(concepts, [name], kind="disease") == {name: id}


def test_kind_chooses_between_a_disease_and_a_finding_of_one_name(concepts):
    assert link(concepts, ["Pneumonia"], kind="finding") == {"Pneumonia": "F:1"}
    assert link(concepts, ["Pneumonia"], kind="disease") == {"Pneumonia": "D:1"}
    assert link(concepts, ["Pneumonia"]) == {"Pneumonia": None}, "without a kind it is either"


def test_the_name_stands_before_a_synonym_of_another():
    terms = (Term("D:1", "grippe", "disease", synonyms=("flu",)), Term("D:2", "flu", "disease"))
    assert link(Ontology({t.id: t for t in terms}).concepts(), ["flu"]) == {"flu": "D:2"}


def test_a_task_gets_its_names_its_order_and_the_ancestors(concepts):
    task = concepts_of_task(concepts, ["zebra", "covid-19", "corona"], ["tussis", "rash"])
    assert task.id == (
        *("task:disease:zebra", "D:3", "task:disease:corona", "F:2", "task:finding:rash"),
        *("D:1", "D:2"),
    )
    assert task.name[:5] == ("zebra", "covid-19", "corona", "tussis", "rash")
    assert task.synonyms[1] == ("COVID-19", "corona", "chest virus")
    assert task.prevalence[1] == np.float32(0.01)
    nan = np.nan
    expected = [[nan, nan], [0.6, nan], [nan, nan], [nan, nan], [0.5, nan]]
    np.testing.assert_array_equal(task.frequency, np.array(expected, np.float32))
    edges = {
        (task.id[s], task.relations[r], task.id[t])
        for s, r, t in zip(task.source, task.relation, task.target, strict=True)
    }
    assert {e for e in edges if e[1] in ("is_a", "has_phenotype")} == {
        ("D:3", "is_a", "D:2"),
        ("D:2", "is_a", "D:1"),
        ("D:3", "has_phenotype", "F:2"),
        ("D:2", "has_phenotype", "F:2"),
    }


def test_a_task_that_the_ontology_knows_nothing_of_still_has_its_concepts(concepts):
    task = concepts_of_task(concepts, ["zebra"], [])
    assert task.name == ("zebra",)
    assert len(task.source) == 0
    assert task.frequency.shape == (1, 0)
