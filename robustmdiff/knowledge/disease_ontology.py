"""The Human Disease Ontology's tables (github.com/DiseaseOntology/HumanDiseaseOntology, DOreports)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from robustmdiff.knowledge.lines import OntologyError, find_file, not_there, table_rows, warn_of_missing
from robustmdiff.knowledge.ontology import Edge, Ontology, Term, check_hierarchy, kind_of

ROOT = ("DOID:4", "disease")  # named as a parent in the hierarchy, without a row of its own

# The names under which DO publishes them; "DO_" may stand before any of them.
HIERARCHY = "HumanDO.tsv"
SYMPTOMS = "disease-symptom.tsv"
ALL_XREFS = "allXREFinDO.tsv"
XREFS = (ALL_XREFS, *(f"{name}inDO.tsv" for name in ("GARD", "ICD10", "MESH", "NCI", "OMIM", "Orphanet")))
TABLES = (HIERARCHY, SYMPTOMS, *XREFS)


def find_table(folder: str | Path, name: str) -> Path | None:
    """One of TABLES under DO's own name or with "DO_" before it; both at once are refused."""
    found = [path for prefix in ("", "DO_") if (path := find_file(folder, prefix + name))]
    if len(found) > 1:
        raise OntologyError(folder, None, f"both {found[0].name} and {found[1].name} are there; keep one")
    return found[0] if found else None


def read_disease_ontology(folder: str | Path) -> Ontology:
    """Read the tables in `folder` (each .tsv or .tsv.gz, "DO_" before its name or not): the hierarchy,
    and if there the others.

    HumanDO              id, label, subClassOf: the parent by its label, a row for each parent.
    disease-symptom      disease_id, disease_label, symptom_id, symptom_label: symptoms become
                         findings, their frequency unknown (NaN).
    allXREFinDO, GARDinDO, ICD10inDO, MESHinDO, NCIinDO, OMIMinDO, OrphanetinDO
                         id, label and cross-references, several of them parted by commas.

    A disease that only a later table names enters with its label and no parent. The tables know
    no definitions and no synonyms; DO's OBO files do. Warns where symptoms or cross-references are
    not there. Raises FileNotFoundError without the hierarchy, OntologyError, with file and line,
    for a damaged table, a parent that no row defines, and a cycle.
    """
    path = find_table(folder, HIERARCHY)
    if path is None:
        raise not_there(folder, f"neither DO_{HIERARCHY} nor {HIERARCHY} is there, plain or .gz")
    terms = {ROOT[0]: Term(*ROOT, "disease")}
    id_of = {ROOT[1]: ROOT[0]}
    parents: list[tuple[int, str, str]] = []
    for line, (id, label, parent) in table_rows(path, ("id", "label", "subClassOf")):
        if id_of.setdefault(label, id) != id:
            raise OntologyError(path, line, f"{id} and {id_of[label]} share the label {label!r}")
        if terms.setdefault(id, Term(id, label, "disease")).name != label:
            raise OntologyError(path, line, f"{id} is {label!r} here and {terms[id].name!r} before")
        parents.append((line, id, parent))
    if not parents:
        raise OntologyError(path, None, "no diseases below the header")
    edges: dict[Edge, int] = {}
    for line, id, parent in parents:
        if parent not in id_of:
            raise OntologyError(path, line, f"{id} has the unknown parent {parent!r}")
        edges[id, "is_a", id_of[parent]] = line
    check_hierarchy(path, terms, edges)

    frequency: dict[tuple[str, str], float] = {}
    if symptoms := find_table(folder, SYMPTOMS):
        columns = ("disease_id", "disease_label", "symptom_id", "symptom_label")
        for _, (disease, label, symptom, symptom_label) in table_rows(symptoms, columns):
            terms.setdefault(disease, Term(disease, label, "disease"))
            terms.setdefault(symptom, Term(symptom, symptom_label, kind_of(symptom)))
            frequency[disease, symptom] = float("nan")

    xrefs: dict[str, list[str]] = defaultdict(list)
    for name in XREFS:
        if table := find_table(folder, name):
            column = "xref" if name == ALL_XREFS else "xrefs"
            for _, (id, label, cell) in table_rows(table, ("id", "label", column)):
                terms.setdefault(id, Term(id, label, "disease"))
                xrefs[id] += (xref.strip() for xref in cell.split(","))
    for id, found in xrefs.items():
        terms[id] = replace(terms[id], xrefs=tuple(dict.fromkeys(found)))
    missing = {} if symptoms else {SYMPTOMS: "symptoms"}
    warn_of_missing(folder, missing if xrefs else missing | {ALL_XREFS: "cross-references"})
    return Ontology(terms, edges, frequency=frequency)
