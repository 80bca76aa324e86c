"""From the names that a task gives its classes and findings to the concepts of an ontology."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.knowledge.sparse import SparseTable

UNLINKED = "task:"  # how the id of a concept begins that only the task knows

_APART = re.compile(r"[^a-z0-9]+")


def link(concepts: ConceptTable, names: Iterable[str], *, kind: str | None = None) -> dict[str, str | None]:
    """The concept id for each name, None where there is no certain match.

    Tried in this order: the id or the name itself, a synonym, then names and synonyms without
    case, accents and punctuation. Nothing is guessed beyond that. Where a step finds several
    concepts, the one that is an ancestor of all others is meant ("Pneumonia" rather than a kind
    of it with that synonym); without such a one the name stays unmatched.

    kind  "disease" or "finding": only concepts of that kind; None takes both.
    """
    rows = range(len(concepts)) if kind is None else concepts.indices(kind).tolist()
    synonyms = concepts.synonyms or ((),) * len(concepts)

    def exact() -> Iterator[tuple[str, int]]:
        for i in rows:
            yield concepts.id[i], i
            yield concepts.name[i], i

    def by_synonym() -> Iterator[tuple[str, int]]:
        return ((synonym, i) for i in rows for synonym in synonyms[i])

    def normalised() -> Iterator[tuple[str, int]]:
        return ((normalise(text), i) for step in (exact, by_synonym) for text, i in step())

    found: dict[str, str | None] = dict.fromkeys(names)
    for entries, key_of in ((exact, str), (by_synonym, str), (normalised, normalise)):
        wanted = {name: key_of(name) for name, id in found.items() if id is None and key_of(name)}
        matches = _matches(entries, set(wanted.values()))
        for name, key in wanted.items():
            match = _the_one(concepts, matches[key])
            found[name] = None if match is None else concepts.id[match]
    return found


def concepts_of_task(concepts: ConceptTable, classes: Iterable[str], findings: Iterable[str]) -> ConceptTable:
    """The part of an ontology that a task can use, under the task's own names.

    Classes are linked to diseases and findings to findings; each becomes a concept named as the
    task names it (the ontology's name is then a synonym), first the classes, then the findings,
    in the task's order; the linked concepts' ancestors follow. A name without a match, or whose
    concept another name has taken, becomes a concept of its own, "task:<kind>:<name>", without
    edges: nothing is known about it. Rows of `frequency` thus begin with the classes, its columns
    with the findings.
    """
    names = {"disease": list(classes), "finding": list(findings)}
    id_of: dict[str, tuple[str, str]] = {}
    for kind, of_kind in names.items():
        for name, linked in link(concepts, of_kind, kind=kind).items():
            id = f"{UNLINKED}{kind}:{name}" if linked is None or linked in id_of else linked
            id_of[id] = (kind, name)
    k = len(id_of)
    nothing = np.zeros(0, np.int64)
    kinds = tuple(kind for kind, _ in id_of.values())
    task = ConceptTable(
        id=tuple(id_of),
        name=tuple(name for _, name in id_of.values()),
        definition=("",) * k,
        kind=kinds,
        prevalence=np.full(k, np.nan, np.float32),
        source=nothing,
        target=nothing,
        relation=nothing,
        relations=(),
        frequency=SparseTable.empty(kinds.count("disease"), kinds.count("finding")),
    )
    return task.merge(concepts.subset(id for id in id_of if not id.startswith(UNLINKED)))


def knows_an_ontology(concepts: ConceptTable) -> bool:
    """Whether any of the concepts is an ontology's, rather than a name of the task and no more."""
    return not all(id.startswith(UNLINKED) for id in concepts.id)


def normalise(text: str) -> str:
    """Lower case, accents off, everything but letters and digits one space: "COVID-19" -> "covid 19"."""
    plain = text.casefold()
    if not plain.isascii():  # an ontology has 100,000 names, nearly all without an accent
        plain = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return _APART.sub(" ", plain).strip()


def _matches(entries: Callable[[], Iterator[tuple[str, int]]], wanted: set[str]) -> dict[str, list[int]]:
    matches: dict[str, list[int]] = defaultdict(list)
    if wanted:
        for key, row in entries():
            if key in wanted and row not in matches[key]:
                matches[key].append(row)
    return matches


def _the_one(concepts: ConceptTable, rows: list[int]) -> int | None:
    """The row that is an ancestor of all others, the only row, or None."""
    if len(rows) <= 1:
        return rows[0] if rows else None
    common = set.intersection(*(concepts.ancestors([row]) for row in rows))
    top = [row for row in rows if row in common]
    return top[0] if len(top) == 1 else None
