"""The real ontologies, where they are: counts against a plain count of their lines, and known facts."""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter, defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest

from robustmdiff.knowledge import (
    ConceptTable,
    Ontology,
    link,
    load_concepts,
    read_concepts,
    read_disease_ontology,
    read_hpo_annotations,
    read_obo,
    read_orphadata,
    read_orphanet,
    save_concepts,
)
from robustmdiff.knowledge.lines import table_rows

COLUMNS = {
    "disorders": ("orphacode", "label", "definition"),
    "xref": ("orphacode", "source", "reference", "relation"),
    "hpo": ("orphacode", "hpo_id", "hpo_term", "frequency"),
    "parents": ("orphacode", "parent", "parent_label"),
    "prevalence": ("orphacode", "type", "class", "geography"),
}
FOLDER = (Path(__file__).parents[2] / "../shared/data/ontology").resolve()
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no ../shared/data/ontology beside the repository: real ontologies not read"
)


def lines(name: str) -> list[str]:
    with gzip.open(FOLDER / name, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def column(name: str, n: int) -> list[str]:
    return [line.split("\t")[n].strip('"') for line in lines(name)[1:]]


def count(concepts: ConceptTable, relation: str) -> int:
    return int((concepts.relation == concepts.relations.index(relation)).sum())


@pytest.mark.parametrize(
    ("name", "terms", "obsolete", "is_a"),
    [
        ("hp_2016-04-01.obo.gz", 11_785, 112, 15_459),
        ("doid_2016-09-01.obo.gz", 9_344, 2_373, 8_155),
        ("mondo_hp_import_2021-10-07.obo.gz", 1_188, 0, 1_397),
        ("DO_rare_slim.obo.gz", 3_460, 2, 1_609),
        ("DO_cancer_slim.obo.gz", 730, 1, 657),
        ("DO_infectious_disease_slim.obo.gz", 536, 0, 498),
    ],
)
def test_an_obo_file_holds_as_many_terms_as_its_lines_say(name, terms, obsolete, is_a):
    text = Counter(
        line.rstrip() if line.startswith(("[", "is_obsolete")) else line.partition(":")[0]
        for line in lines(name)
    )
    assert (text["[Term]"], text["is_obsolete: true"], text["is_a"]) == (terms, obsolete, is_a)
    ontology = read_obo(FOLDER / name)
    assert len(ontology.terms) == terms
    assert sum(term.obsolete for term in ontology.terms.values()) == obsolete
    assert len(ontology.edges) == is_a
    assert sum(len(term.alt_ids) for term in ontology.terms.values()) == text["alt_id"]
    stanzas = "\n".join(lines(name)).split("[Term]")[1:]
    exact = sum(len(set(re.findall(r'^synonym: "(.*)" EXACT\b', stanza, re.M))) for stanza in stanzas)
    assert sum(len(term.synonyms) for term in ontology.terms.values()) == exact
    concepts = ontology.concepts()
    assert len(concepts) == terms - obsolete
    assert count(concepts, "is_a") == count(concepts, "has_subclass") == is_a


def test_hpo_holds_a_known_definition_and_lineage():
    concepts = load_concepts(FOLDER / "hp_2016-04-01.obo.gz")
    fever = concepts.id.index("HP:0001945")
    assert concepts.name[fever] == "Fever"
    assert concepts.kind[fever] == "finding"
    assert concepts.definition[fever].startswith("Elevated body temperature")
    names = {concepts.name[i] for i in concepts.ancestors([fever])}
    assert {"Fever", "Abnormality of temperature regulation", "Phenotypic abnormality", "All"} <= names


def test_disease_ontology_tables_hold_their_rows():
    ontology = read_disease_ontology(FOLDER)
    hierarchy, symptoms = "DO_HumanDO.tsv.gz", "DO_disease-symptom.tsv.gz"
    ids = set(column(hierarchy, 0))
    assert len(ids) == 12_246
    assert len(ontology.edges) == len(column(hierarchy, 0)) == 12_296
    xref_ids = {i for stem in ("allXREF", "ICD10", "Orphanet") for i in column(f"DO_{stem}inDO.tsv.gz", 0)}
    diseases = ids | set(column(symptoms, 0)) | xref_ids | {"DOID:4"}
    found = {id for id, term in ontology.terms.items() if term.kind == "disease"}
    assert found == diseases
    assert len(ontology.terms) - len(found) == len(set(column(symptoms, 2))) == 300
    assert len(ontology.frequency) == len(lines(symptoms)) - 1 == 2_222
    covid = ontology.terms["DOID:0080600"]
    assert covid.name == "COVID-19"
    assert "ICD10CM:U07.1" in covid.xrefs
    by_id = list(zip(column("DO_allXREFinDO.tsv.gz", 0), column("DO_allXREFinDO.tsv.gz", 2), strict=True))
    assert all(xref in ontology.terms[id].xrefs for id, xref in by_id)


@pytest.fixture(scope="module")
def orphanet() -> Ontology:
    return read_orphanet(FOLDER)


def test_orphanet_tables_hold_their_rows(orphanet):
    ontology = orphanet
    disorders, parents = set(column("orpha_disorders.tsv.gz", 0)), set(column("orpha_parents.tsv.gz", 1))
    findings = set(column("orpha_hpo.tsv.gz", 1))
    assert (len(disorders), len(parents - disorders), len(findings)) == (9_960, 38, 8_701)
    assert len(ontology.terms) == 9_960 + 38 + 8_701
    assert len(ontology.edges) == len(lines("orpha_parents.tsv.gz")) - 1 == 19_481
    rows = [line.split("\t") for line in lines("orpha_hpo.tsv.gz")[1:]]
    pairs = {(f"ORPHA:{row[0]}", row[1]) for row in rows}
    assert set(ontology.frequency) == pairs
    assert len(pairs) == 115_839
    exact = sum(relation.startswith("E ") for relation in column("orpha_xref.tsv.gz", 3))
    assert sum(len(term.xrefs) for term in ontology.terms.values()) == exact == 3_659

    known = {  # point, birth or lifetime prevalence with a class that has a number
        f"ORPHA:{row[0]}"
        for row in (line.split("\t") for line in lines("orpha_prevalence.tsv.gz")[1:])
        if "revalence" in row[1] and "/" in row[2]
    }
    assert set(ontology.prevalence) == known
    assert len(known) == 4_778
    assert all(0 < p <= 1e-3 for p in ontology.prevalence.values())
    # Marfan syndrome: point prevalence worldwide 1-5 / 10 000.
    assert ontology.terms["ORPHA:558"].name == "Marfan syndrome"
    assert ontology.prevalence["ORPHA:558"] == pytest.approx(3e-4)


def test_orphanet_concepts_have_one_frequency_for_each_pair_and_make_a_round_trip(orphanet, tmp_path):
    concepts = orphanet.concepts()
    assert concepts.frequency.shape == (9_998, 8_701)
    assert len(concepts.frequency.value) == 115_839
    excluded = int((concepts.frequency.value == 0).sum())
    assert count(concepts, "has_phenotype") == count(concepts, "phenotype_of") == 115_839 - excluded
    part = concepts.subset(["ORPHA:558"], phenotypes=True)
    has = [line for line in lines("orpha_hpo.tsv.gz") if line.startswith("558\t") and "Excluded" not in line]
    assert len(part.indices("finding")) == count(part, "has_phenotype") == len(has)
    save_concepts(part, tmp_path / "marfan.npz")
    again = read_concepts(tmp_path / "marfan.npz")
    assert again.id == part.id
    np.testing.assert_array_equal(again.frequency, part.frequency)


def as_orphadata(folder: Path) -> None:
    """Write Orphanet's tables in the XML of orphadata.com; without the groups that only parents name."""
    named = '<{0}><Name lang="en">{1}</Name></{0}>'.format
    inside: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    names: dict[str, str] = {}

    def rows(table: str) -> list[list[str]]:
        return [
            [escape(cell) for cell in row]
            for _, row in table_rows(FOLDER / f"orpha_{table}.tsv.gz", COLUMNS[table])
        ]

    for code, name, definition in rows("disorders"):
        names[code] = name
        text = f"{named('TextSectionType', 'Definition')}<Contents>{definition}</Contents>"
        section = f"<TextSectionList><TextSection>{text}</TextSection></TextSectionList>"
        inside["1"][code].append(
            f"<SummaryInformationList><SummaryInformation>{section}</SummaryInformation></SummaryInformationList>"
        )
    for code, source, reference, relation in rows("xref"):
        text = f"<Source>{source}</Source><Reference>{reference}</Reference>"
        text += named("DisorderMappingRelation", relation)
        inside["1"][code].append(
            f"<ExternalReferenceList><ExternalReference>{text}</ExternalReference></ExternalReferenceList>"
        )
    for code, finding, name, band in rows("hpo"):
        text = f"<HPO><HPOId>{finding}</HPOId><HPOTerm>{name}</HPOTerm></HPO>{named('HPOFrequency', band)}"
        inside["4"][code].append(
            f"<HPODisorderAssociationList><HPODisorderAssociation>{text}</HPODisorderAssociation>"
            "</HPODisorderAssociationList>"
        )
    for code, parent, name in rows("parents"):
        text = (
            f'<TargetDisorder><OrphaCode>{parent}</OrphaCode><Name lang="en">{name}</Name></TargetDisorder>'
        )
        text += named("DisorderDisorderAssociationType", "Preferential parent")
        inside["7"][code].append(
            f"<DisorderDisorderAssociationList><DisorderDisorderAssociation>{text}</DisorderDisorderAssociation>"
            "</DisorderDisorderAssociationList>"
        )
    for code, type, band, place in rows("prevalence"):
        text = (
            named("PrevalenceType", type)
            + named("PrevalenceClass", band)
            + named("PrevalenceGeographic", place)
        )
        inside["9_prev"][code].append(f"<PrevalenceList><Prevalence>{text}</Prevalence></PrevalenceList>")
    for product, of in inside.items():
        disorders = (
            f"<Disorder><OrphaCode>{code}</OrphaCode><Name>{names[code]}</Name>{''.join(lists)}</Disorder>\n"
            for code, lists in of.items()
        )
        text = f"<JDBOR><DisorderList>{''.join(disorders)}</DisorderList></JDBOR>"
        text = f'<?xml version="1.0" encoding="ISO-8859-1"?>\n{text}'
        (folder / f"en_product{product}.xml").write_bytes(text.encode("latin-1", "xmlcharrefreplace"))


@pytest.mark.slow  # thousands of diseases, written and read
def test_orphanets_tables_written_as_orphadatas_xml_read_the_same(orphanet, tmp_path):
    as_orphadata(tmp_path)
    again = read_orphadata(tmp_path)
    assert dict(again.terms) == dict(orphanet.terms)
    assert set(again.edges) == set(orphanet.edges)
    assert again.prevalence == orphanet.prevalence
    assert again.frequency == orphanet.frequency


def test_hpo_annotations_hold_every_phenotype_row():
    hpo = read_obo(FOLDER / "hp_2016-04-01.obo.gz")
    name = "phenotype_annotation_2016.tab.gz"
    with pytest.warns(UserWarning, match="1 annotations of obsolete findings are left out"):
        ontology = read_hpo_annotations(FOLDER / name, hpo)
    rows = [line.split("\t") for line in lines(name)]
    # HP:0000057 (24 rows) and HP:0008694 (2) are obsolete, and alternative ids of terms that are not.
    rows = [row for row in rows if row[10] == "O" and row[4] != "HP:0200144"]
    assert len(rows) == 113_270 - 1
    assert {f"{row[0]}:{row[1]}" for row in rows} == {disease for disease, _ in ontology.frequency}
    assert len({disease for disease, _ in ontology.frequency}) == 8_012
    assert len(ontology.frequency) == 107_752
    numbered = {f"{row[0]}:{row[1]}" for row in rows if row[8] and row[8].lower() != "variable"}
    assert {disease for (disease, _), p in ontology.frequency.items() if not math.isnan(p)} == numbered
    # OMIM 154700, Marfan syndrome: ectopia lentis.
    assert ("OMIM:154700", "HP:0001083") in ontology.frequency


def test_labels_of_a_chest_collection_find_their_diseases():
    names = ["COVID-19", "Pneumonia", "Influenza", "ARDS", "No Finding", "Lipoid"]
    assert link(load_concepts(FOLDER / "DO_HumanDO.tsv.gz"), names) == {
        "COVID-19": "DOID:0080600",
        "Pneumonia": "DOID:552",
        "Influenza": "DOID:8469",
        "ARDS": None,
        "No Finding": None,
        "Lipoid": None,
    }
