"""Orphanet's rare diseases (orphadata.com): from the statements in its files to an ontology."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from robustmdiff.knowledge.frequency import band_fraction, pooled
from robustmdiff.knowledge.lines import OntologyError, warn_of_missing
from robustmdiff.knowledge.ontology import (
    Edge,
    Ontology,
    Term,
    check_hierarchy,
    current_ids,
    mean_where_known,
)
from robustmdiff.knowledge.orphanet_files import Row, Tables, tsv_rows, xml_rows

# Each class stands for its midpoint; the class without an upper end for its lower one.
PREVALENCE = {
    ">1 / 1000": 1e-3,
    "6-9 / 10 000": 7.5e-4,
    "1-5 / 10 000": 3e-4,
    "1-9 / 100 000": 5e-5,
    "1-9 / 1 000 000": 5e-6,
    "<1 / 1 000 000": 5e-7,
}
NO_CLASS = frozenset({"Unknown", "Not yet documented", "no data", ""})
# What counts as a prevalence, best first. Annual incidence and counts of cases are neither.
TYPES = ("Point prevalence", "Prevalence at birth", "Lifetime Prevalence")
PLACES = ("Worldwide", "Europe")  # best first; without them the mean over the places there are


_TAG = re.compile(r"</?[A-Za-z]+ ?/?>")  # definitions hold <i> and the like


def read_orphanet(folder: str | Path) -> Ontology:
    """Read orpha_disorders.tsv and, where there, orpha_parents, _prevalence, _hpo and _xref.

    Disorders and their groups become diseases "ORPHA:<code>", HPO terms become findings. A group
    that is only named as a parent enters with its label and no parent. Prevalence follows
    `PREVALENCE`, `TYPES` and `PLACES`; frequencies are band midpoints, repeated statements
    averaged. Only exact cross-references are kept. A warning names the files that are not there.
    Raises FileNotFoundError without the disorders, OntologyError, with file and line, for a damaged
    file, an unknown disorder, an unknown class or band, and a cycle.
    """
    return _ontology(folder, *tsv_rows(folder))


def read_orphadata(folder: str | Path) -> Ontology:
    """Read the XML of orphadata.com into the same as `read_orphanet`, any of these files:

    en_product1.xml               names, synonyms, definitions, cross-references
    en_product3_*.xml             the classifications: parents
    en_product4.xml               findings
    en_product7.xml               one preferential parent each, read where no classification is there
    en_product9_prev.xml          prevalence

    Retired disorders (obsolete or deprecated) stay in the ontology; what is stated of one is said
    of the disorder that it moved to, or left out with a warning.
    """
    return _ontology(folder, *xml_rows(folder))


def _ontology(folder: str | Path, tables: Tables, missing: dict[str, str]) -> Ontology:
    warn_of_missing(folder, missing)
    terms = _terms(tables)
    current = current_ids(terms, folder)
    edges = _edges(tables, terms, current)
    stated: dict[tuple[str, str], list[float]] = defaultdict(list)
    for id, row in _of_current(tables, "hpo", current):
        finding, name, band = row.cells
        terms.setdefault(finding, Term(finding, name, "finding"))
        try:
            stated[id, finding].append(band_fraction(band) if band else float("nan"))
        except ValueError as error:
            raise OntologyError(row.path, row.line, str(error)) from error
    frequency = {pair: pooled(fractions) for pair, fractions in stated.items()}
    return Ontology(terms, edges, _prevalence(tables, current), frequency)


def _terms(tables: Tables) -> dict[str, Term]:
    """The disorders with their own words; the first file that names one gives its label."""
    of: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in ("synonyms", "xref", "moved")}
    for row in tables.get("synonyms", ()):
        of["synonyms"][row.code].append(row.cells[0])
    for row in tables.get("moved", ()):
        of["moved"][row.code].append(f"ORPHA:{row.cells[0]}")
    for row in tables.get("xref", ()):
        source, reference, relation = row.cells
        if relation.startswith("E "):
            of["xref"][row.code].append(f"{source}:{reference}")
    retired = {row.code for row in tables.get("retired", ())}
    terms: dict[str, Term] = {}
    for row in tables["disorders"]:
        id = f"ORPHA:{row.code}"
        label, definition = row.cells
        moved = of["moved"][row.code]
        obsolete = row.code in retired
        terms.setdefault(
            id,
            Term(
                id,
                label or id,
                "disease",
                _TAG.sub("", definition),
                synonyms=tuple(dict.fromkeys(of["synonyms"][row.code])),
                xrefs=tuple(dict.fromkeys(of["xref"][row.code])),
                obsolete=obsolete,
                replaced_by=moved[0] if obsolete and len(moved) == 1 else "",
                consider=tuple(moved) if obsolete and len(moved) > 1 else (),
            ),
        )
    return terms


def _edges(tables: Tables, terms: dict[str, Term], current: dict[str, str]) -> dict[Edge, int]:
    """is_a, file by file; parents that have no entry of their own become terms."""
    edges: dict[Edge, int] = {}
    path = None
    for id, row in _of_current(tables, "parents", current):
        if path not in (None, row.path):
            check_hierarchy(path, terms, edges)
        path = row.path
        parent, label = f"ORPHA:{row.cells[0]}", row.cells[1]
        terms.setdefault(parent, Term(parent, label, "disease"))
        target = current.get(parent, parent)
        kept = id == f"ORPHA:{row.code}" and target  # a retired disorder has no place,
        if kept and (target == parent or target != id):  # nor does one stand under what moved to it
            edges.setdefault((id, "is_a", target), row.line)
    if path is not None:
        check_hierarchy(path, terms, edges)
    return edges


def _prevalence(tables: Tables, current: dict[str, str]) -> dict[str, float]:
    stated: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for id, row in _of_current(tables, "prevalence", current):
        type, band, place = row.cells
        if band in PREVALENCE:
            stated[id][type, place].append(PREVALENCE[band])
        elif band not in NO_CLASS:
            classes = ", ".join(PREVALENCE)
            problem = f"prevalence class {band!r}, expected one of {classes}"
            raise OntologyError(row.path, row.line, problem)
    return {id: p for id, places in stated.items() if (p := _best(places)) is not None}


def _of_current(tables: Tables, name: str, current: dict[str, str]) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with the id of the disorder that they are about today."""
    left_out = 0
    for row in tables.get(name, ()):
        id = current.get(f"ORPHA:{row.code}")
        if id is None:
            raise OntologyError(row.path, row.line, f"unknown orphacode {row.code}")
        if id:
            yield id, row
        left_out += not id
    if left_out:
        warnings.warn(f"{row.path}: {left_out} statements on retired disorders are left out", stacklevel=3)


def _best(places: dict[tuple[str, str], list[float]]) -> float | None:
    """The mean of the best type at the best place; None where nothing is a prevalence."""
    for type in TYPES:
        here = {place: values for (stated, place), values in places.items() if stated == type}
        for place in PLACES:
            if place in here:
                return mean_where_known(here[place])
        if here:
            return mean_where_known(value for values in here.values() for value in values)
    return None
