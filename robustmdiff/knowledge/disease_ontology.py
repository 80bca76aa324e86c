"""The Human Disease Ontology's tables (github.com/DiseaseOntology/HumanDiseaseOntology, DOreports)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from robustmdiff.knowledge.lines import OntologyError, find_file, find_optional_file, table_rows
from robustmdiff.knowledge.ontology import Edge, Ontology, Term, check_hierarchy, kind_of

ROOT = ("DOID:4", "disease")  # named as a parent in the hierarchy, without a row of its own

HIERARCHY = "DO_HumanDO.tsv"
SYMPTOMS = "DO_disease-symptom.tsv"
XREFS = ("DO_allXREFinDO.tsv", "DO_ICD10inDO.tsv", "DO_OrphanetinDO.tsv")


def read_disease_ontology(folder: str | Path) -> Ontology:
    """Read the tables in `folder` (each .tsv or .tsv.gz): the hierarchy, and if there the others.

    DO_HumanDO           id, label, subClassOf: the parent by its label, a row for each parent.
    DO_disease-symptom   disease_id, disease_label, symptom_id, symptom_label: symptoms become
                         findings, their frequency unknown (NaN).
    DO_allXREFinDO, DO_ICD10inDO, DO_OrphanetinDO
                         id, label and cross-references, several of them parted by commas.

    A disease that only a later table names enters with its label and no parent. The tables know
    no definitions and no synonyms; DO's OBO files do. Raises OntologyError, with file and line,
    for a damaged table, a parent that no row defines, and a cycle.
    """
    path = find_file(folder, HIERARCHY)
    terms = {ROOT[0]: Term(*ROOT, "disease")}
    id_of = {ROOT[1]: ROOT[0]}
    parents: list[tuple[int, str, str]] = []
    for line, (id, label, parent) in table_rows(path, ("id", "label", "subClassOf")):
        if id_of.setdefault(label, id) != id:
            raise OntologyError(path, line, f"{id} and {id_of[label]} share the label {label!r}")
        if terms.setdefault(id, Term(id, label, "disease")).name != label:
            raise OntologyError(path, line, f"{id} is {label!r} here and {terms[id].name!r} before")
        parents.append((line, id, parent))
    edges: dict[Edge, int] = {}
    for line, id, parent in parents:
        if parent not in id_of:
            raise OntologyError(path, line, f"{id} has the unknown parent {parent!r}")
        edges[id, "is_a", id_of[parent]] = line
    check_hierarchy(path, terms, edges)

    frequency: dict[tuple[str, str], float] = {}
    if symptoms := find_optional_file(folder, SYMPTOMS):
        columns = ("disease_id", "disease_label", "symptom_id", "symptom_label")
        for _, (disease, label, symptom, symptom_label) in table_rows(symptoms, columns):
            terms.setdefault(disease, Term(disease, label, "disease"))
            terms.setdefault(symptom, Term(symptom, symptom_label, kind_of(symptom)))
            frequency[disease, symptom] = float("nan")

    xrefs: dict[str, list[str]] = defaultdict(list)
    for name in XREFS:
        if table := find_optional_file(folder, name):
            column = "xref" if name == XREFS[0] else "xrefs"
            for _, (id, label, cell) in table_rows(table, ("id", "label", column)):
                terms.setdefault(id, Term(id, label, "disease"))
                xrefs[id] += (xref.strip() for xref in cell.split(","))
    for id, found in xrefs.items():
        terms[id] = replace(terms[id], xrefs=tuple(dict.fromkeys(found)))
    return Ontology(terms, edges, frequency=frequency)
