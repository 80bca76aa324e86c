"""ICD-10-CM out of its package, whose release changes: rules rather than counts."""

from __future__ import annotations

import pytest
import simple_icd_10_cm as icd

from robustmdiff.knowledge import ConceptTable, link, load_concepts


@pytest.fixture(scope="module")
def concepts() -> ConceptTable:
    return load_concepts()


def test_every_code_is_there_once_under_its_chapter(concepts):
    assert set(concepts.id) == {f"ICD10CM:{code}" for code in icd.get_all_codes(True)}
    is_a = concepts.relation == concepts.relations.index("is_a")
    assert set(concepts.id) - {concepts.id[i] for i in concepts.source[is_a]} == {
        f"ICD10CM:{chapter}" for chapter in range(1, 23)
    }
    assert int(is_a.sum()) == len(concepts) - 22, "each code has one parent"


def test_a_block_that_shares_its_code_with_its_category_is_one_concept(concepts):
    hiv = concepts.id.index("ICD10CM:B20")
    assert {concepts.id[i] for i in concepts.ancestors([hiv])} == {"ICD10CM:B20", "ICD10CM:1"}


def test_symptoms_and_signs_are_findings(concepts):
    kind = dict(zip(concepts.id, concepts.kind, strict=True))
    assert kind["ICD10CM:R50.9"] == kind["ICD10CM:18"] == "finding"
    assert kind["ICD10CM:J18"] == kind["ICD10CM:U07.1"] == "disease"


def test_names_are_bare_and_other_names_are_synonyms(concepts):
    row = {id: i for i, id in enumerate(concepts.id)}
    assert concepts.name[row["ICD10CM:1"]] == "Certain infectious and parasitic diseases"
    assert concepts.name[row["ICD10CM:A00-A09"]] == "Intestinal infectious diseases"
    assert concepts.synonyms[row["ICD10CM:A00.0"]] == ("Classical cholera",)
    assert "Pneumonia" in concepts.synonyms[row["ICD10CM:J18.9"]], "unspecified: nothing further is said"


def test_labels_of_a_chest_collection_find_their_codes(concepts):
    linked = link(concepts, ["COVID-19", "Pneumonia", "Cardiomegaly", "Cough", "No Finding", "Lipoid"])
    assert linked == {
        "COVID-19": "ICD10CM:U07.1",
        "Pneumonia": "ICD10CM:J18",
        "Cardiomegaly": "ICD10CM:I51.7",
        "Cough": "ICD10CM:R05",
        "No Finding": None,
        "Lipoid": None,
    }


def test_frequencies_take_no_memory_where_none_is_stated(concepts):
    assert concepts.frequency.shape == (len(concepts.indices("disease")), len(concepts.indices("finding")))
    assert len(concepts.frequency.value) == 0
