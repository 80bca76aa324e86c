"""Orphanet's rare diseases (orphadata.com), as the tables orpha_*.tsv, plain or gzipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from robustmdiff.knowledge.frequency import band_fraction, pooled
from robustmdiff.knowledge.lines import OntologyError, find_file, find_optional_file, table_rows
from robustmdiff.knowledge.ontology import Edge, Ontology, Term, check_hierarchy, mean_where_known

DISORDERS = "orpha_disorders.tsv"

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


def read_orphanet(folder: str | Path) -> Ontology:
    """Read orpha_disorders (needed) and, where there, orpha_parents, _prevalence, _hpo and _xref.

    Disorders and their groups become diseases "ORPHA:<code>", HPO terms become findings. A group
    that only orpha_parents names enters with its label and no parent. Prevalence follows
    `PREVALENCE`, `TYPES` and `PLACES`; frequencies are band midpoints, repeated statements
    averaged. Only exact cross-references are kept. Raises OntologyError, with file and line, for
    a damaged table, an unknown disorder, an unknown class or band, and a cycle.
    """
    path = find_file(folder, DISORDERS)
    terms: dict[str, Term] = {}
    for line, (code, label, definition) in table_rows(path, ("orphacode", "label", "definition")):
        id = f"ORPHA:{code}"
        if id in terms:
            raise OntologyError(path, line, f"duplicate orphacode {code}")
        terms[id] = Term(id, label, "disease", definition)
    known = frozenset(terms)

    edges: dict[Edge, int] = {}
    table = Path(folder, "orpha_parents.tsv")
    for line, id, (parent, label) in _rows(table, known, ("parent", "parent_label")):
        terms.setdefault(f"ORPHA:{parent}", Term(f"ORPHA:{parent}", label, "disease"))
        edges[id, "is_a", f"ORPHA:{parent}"] = line
    check_hierarchy(table, terms, edges)

    bands: dict[tuple[str, str], list[float]] = defaultdict(list)
    table = Path(folder, "orpha_hpo.tsv")
    for line, id, (finding, name, band) in _rows(table, known, ("hpo_id", "hpo_term", "frequency")):
        terms.setdefault(finding, Term(finding, name, "finding"))
        try:
            bands[id, finding].append(band_fraction(band))
        except ValueError as error:
            raise OntologyError(table, line, str(error)) from error
    frequency = {pair: pooled(values) for pair, values in bands.items()}

    exact: dict[str, list[str]] = defaultdict(list)
    table = Path(folder, "orpha_xref.tsv")
    for _, id, (source, reference, relation) in _rows(table, known, ("source", "reference", "relation")):
        if relation.startswith("E "):
            exact[id].append(f"{source}:{reference}")
    for id, xrefs in exact.items():
        terms[id] = replace(terms[id], xrefs=tuple(xrefs))

    stated: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    table = Path(folder, "orpha_prevalence.tsv")
    for line, id, (type, band, place) in _rows(table, known, ("type", "class", "geography")):
        if band in PREVALENCE:
            stated[id][type, place].append(PREVALENCE[band])
        elif band not in NO_CLASS:
            classes = ", ".join(PREVALENCE)
            raise OntologyError(table, line, f"prevalence class {band!r}, expected one of {classes}")
    prevalence = {id: p for id, places in stated.items() if (p := _best(places)) is not None}
    return Ontology(terms, edges, prevalence, frequency)


def _rows(
    table: Path, known: frozenset[str], columns: tuple[str, ...]
) -> Iterator[tuple[int, str, list[str]]]:
    """Line, disorder id and cells of a table that may be missing."""
    path = find_optional_file(table.parent, table.name)
    for line, (code, *cells) in table_rows(path, ("orphacode", *columns)) if path else ():
        if f"ORPHA:{code}" not in known:
            raise OntologyError(table, line, f"unknown orphacode {code}")
        yield line, f"ORPHA:{code}", cells


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
