"""The tables of DO and Orphanet: what is read, and what is refused where."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from robustmdiff.knowledge import (
    OntologyError,
    read_disease_ontology,
    read_orphanet,
)

DO = {
    "DO_HumanDO.tsv": """id	label	subClassOf
"DOID:1"	"lung disease"	"disease"
"DOID:2"	"pneumonia"	"lung disease"
"DOID:2"	"pneumonia"	"infection"
"DOID:3"	"infection"	"disease"
""",
    "DO_disease-symptom.tsv": """disease_id	disease_label	symptom_id	symptom_label
DOID:2	pneumonia	SYMP:7	cough
DOID:9	gone disease	SYMP:7	cough
""",
    "DO_allXREFinDO.tsv": """id	label	xref
"DOID:2"	"pneumonia"	"MESH:D011014"
"DOID:2"	"pneumonia"	"ICD10CM:J18"
""",
    "DO_ICD10inDO.tsv": """id	label	xrefs
"DOID:2"	"pneumonia"	"ICD10CM:J18, ICD10CM:J18.9"
""",
}

ORPHANET = {
    "orpha_disorders.tsv": """orphacode	label	type	age_of_onset	inheritance	definition
10	one	Disease	Adult		"A ""quoted"" disease."
20	two	Category			a group
30	three	Disease			third
40	four	Disease			fourth
50	five	Disease			fifth
""",
    "orpha_parents.tsv": """orphacode	parent	parent_label
10	20	two
20	99	rare disorders
""",
    "orpha_prevalence.tsv": """orphacode	type	class	mean_per_100000	geography	qualification
10	Prevalence at birth	6-9 / 10 000	no data	Worldwide	Class only
10	Point prevalence	1-9 / 100 000	no data	France	Value and class
10	Point prevalence	1-5 / 10 000	no data	Europe	Value and class
20	Point prevalence	Unknown	no data	Worldwide	Class only
20	Annual incidence	>1 / 1000	no data	Worldwide	Class only
30	Point prevalence	<1 / 1 000 000	no data	Japan	Class only
30	Point prevalence	1-9 / 1 000 000	no data	Italy	Class only
40	Lifetime Prevalence	>1 / 1000	no data	Spain	Class only
""",
    "orpha_hpo.tsv": """orphacode	hpo_id	hpo_term	frequency
10	HP:1	cough	Very frequent (99-80%)
10	HP:2	fever	Occasional (29-5%)
10	HP:2	fever	Frequent (79-30%)
30	HP:1	cough	Excluded (0%)
""",
    "orpha_xref.tsv": """orphacode	source	reference	relation
10	OMIM	111111	E (Exact mapping: the two concepts are equivalent)
10	OMIM	222222	BTNT (ORPHAcode is broader than the targeted code used to represent it)
""",
}


def folder(tmp_path: Path, tables: dict[str, str], **changes: str) -> Path:
    for name, text in tables.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    for stem, text in changes.items():
        name = next(name for name in tables if name.removesuffix(".tsv").replace("-", "_") == stem)
        (tmp_path / f"{name}.gz").unlink()
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_disease_ontology_tables_become_terms_edges_symptoms_and_xrefs(tmp_path):
    ontology = read_disease_ontology(folder(tmp_path, DO))
    assert {t.id: (t.name, t.kind) for t in ontology.terms.values()} == {
        "DOID:4": ("disease", "disease"),
        "DOID:1": ("lung disease", "disease"),
        "DOID:2": ("pneumonia", "disease"),
        "DOID:3": ("infection", "disease"),
        "DOID:9": ("gone disease", "disease"),
        "SYMP:7": ("cough", "finding"),
    }
    assert ontology.edges == {
        ("DOID:1", "is_a", "DOID:4"): 2,
        ("DOID:2", "is_a", "DOID:1"): 3,
        ("DOID:2", "is_a", "DOID:3"): 4,
        ("DOID:3", "is_a", "DOID:4"): 5,
    }
    assert ontology.terms["DOID:2"].xrefs == ("MESH:D011014", "ICD10CM:J18", "ICD10CM:J18.9")
    assert set(ontology.frequency) == {("DOID:2", "SYMP:7"), ("DOID:9", "SYMP:7")}
    assert all(math.isnan(p) for p in ontology.frequency.values())


def test_disease_ontology_needs_only_its_hierarchy(tmp_path):
    with pytest.warns(UserWarning, match="without symptoms .*, cross-references"):
        ontology = read_disease_ontology(folder(tmp_path, {"DO_HumanDO.tsv": DO["DO_HumanDO.tsv"]}))
    assert len(ontology.terms) == 4
    assert not ontology.frequency


HEAD = "id\tlabel\tsubClassOf\n"


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        pytest.param("id\tname\tsubClassOf\n", 1, "no column 'label'", id="renamed-column"),
        pytest.param("", 1, "no column 'id'", id="empty-file"),
        pytest.param(HEAD + "A\ta\tdisease\nB\tb\n", 3, "2 cells, expected 3", id="short-row"),
        pytest.param(HEAD + "A\ta\tdisease\nB\tb\tzebra\n", 3, "unknown parent 'zebra'", id="unknown-parent"),
        pytest.param(
            HEAD + "A\ta\tdisease\nB\ta\tdisease\n", 3, "share the label 'a'", id="one-label-two-ids"
        ),
        pytest.param(
            HEAD + "A\ta\tdisease\nA\tb\tdisease\n", 3, "A is 'b' here and 'a'", id="one-id-two-labels"
        ),
        pytest.param(HEAD + "A\ta\tb\nB\tb\ta\n", 3, "closes a cycle: A -> B -> A", id="cycle"),
    ],
)
def test_a_broken_hierarchy_names_its_line(tmp_path, table, line, message):
    with pytest.raises(OntologyError) as caught:
        read_disease_ontology(folder(tmp_path, DO, DO_HumanDO=table))
    assert caught.value.line == line
    assert message in str(caught.value)
    assert "DO_HumanDO.tsv" in str(caught.value)


def test_orphanet_tables_become_numbers(tmp_path):
    ontology = read_orphanet(folder(tmp_path, ORPHANET))
    assert ontology.terms["ORPHA:10"].definition == 'A "quoted" disease.'
    assert ontology.terms["ORPHA:10"].xrefs == ("OMIM:111111",), "exact cross-references only"
    assert ontology.terms["ORPHA:99"].name == "rare disorders"
    assert ontology.edges == {("ORPHA:10", "is_a", "ORPHA:20"): 2, ("ORPHA:20", "is_a", "ORPHA:99"): 3}
    assert ontology.frequency == pytest.approx(
        {("ORPHA:10", "HP:1"): 0.895, ("ORPHA:10", "HP:2"): (0.17 + 0.545) / 2, ("ORPHA:30", "HP:1"): 0.0}
    )
    assert ontology.prevalence == pytest.approx(
        {
            "ORPHA:10": 3e-4,  # Europe's point prevalence: before France's, and before any at birth
            "ORPHA:30": (5e-7 + 5e-6) / 2,  # no Worldwide, no Europe: the mean of what there is
            "ORPHA:40": 1e-3,
        }
    ), "an unknown class and an incidence give no prevalence"


def test_an_excluded_finding_has_a_frequency_and_no_edge(tmp_path):
    concepts = read_orphanet(folder(tmp_path, ORPHANET)).concepts()
    has = concepts.relations.index("has_phenotype")
    pairs = {
        (concepts.id[s], concepts.id[t])
        for s, t, r in zip(concepts.source, concepts.target, concepts.relation, strict=True)
        if r == has
    }
    assert pairs == {("ORPHA:10", "HP:1"), ("ORPHA:10", "HP:2")}
    diseases = [concepts.id[i] for i in concepts.indices("disease")]
    assert concepts.frequency[diseases.index("ORPHA:30"), 0] == 0
    assert math.isnan(concepts.frequency[diseases.index("ORPHA:30"), 1])


def change(table: str, old: str, new: str) -> dict[str, str]:
    assert old in ORPHANET[f"{table}.tsv"]
    return {table: ORPHANET[f"{table}.tsv"].replace(old, new, 1)}


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        pytest.param(
            change("orpha_disorders", "20\ttwo", "10\ttwo"), 3, "duplicate orphacode 10", id="duplicate"
        ),
        pytest.param(change("orpha_parents", "20\t99", "20\t10"), 3, "ORPHA:20 -> ORPHA:10", id="cycle"),
        pytest.param(
            change("orpha_parents", "20\t99", "21\t99"), 3, "unknown orphacode 21", id="unknown-child"
        ),
        pytest.param(
            change("orpha_hpo", "30\tHP:1", "31\tHP:1"), 5, "unknown orphacode 31", id="unknown-disorder"
        ),
        pytest.param(
            change("orpha_hpo", "Excluded", "Never"), 5, "frequency 'Never (0%)'", id="unknown-band"
        ),
        pytest.param(change("orpha_prevalence", "1-5 / 10 000", "1-5 / 7"), 4, "class '1-5 / 7'", id="class"),
        pytest.param(change("orpha_xref", "relation", "how"), 1, "no column 'relation'", id="renamed-column"),
    ],
)
def test_a_broken_orphanet_table_names_its_line(tmp_path, changes, line, message):
    with pytest.raises(OntologyError) as caught:
        read_orphanet(folder(tmp_path, ORPHANET, **changes))
    assert caught.value.line == line
    assert message in str(caught.value)
    assert next(iter(changes)) in str(caught.value)


@pytest.mark.parametrize("read", [read_disease_ontology, read_orphanet])
def test_a_folder_without_the_main_table_says_which(tmp_path, read: Callable):
    with pytest.raises(FileNotFoundError, match=r"neither (DO_HumanDO|orpha_disorders)\.tsv nor"):
        read(tmp_path)
