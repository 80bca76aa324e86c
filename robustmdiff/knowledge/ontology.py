"""What a knowledge source says, in its own words: terms, edges, prevalence, frequencies.

Readers make an `Ontology` (strings and dicts, sparse); `concepts()` turns it into the arrays of
a `ConceptTable`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robustmdiff.knowledge.concepts import ConceptTable, inverse_relation
from robustmdiff.knowledge.cycle import find_cycle
from robustmdiff.knowledge.lines import OntologyError
from robustmdiff.knowledge.sparse import SparseTable

Edge = tuple[str, str, str]  # (source id, relation, target id)

FINDING_PREFIXES = frozenset({"HP", "SYMP"})


def kind_of(id: str) -> str:
    """ "finding" for ids of the HPO and of the Symptom Ontology, otherwise "disease"."""
    return "finding" if id.partition(":")[0] in FINDING_PREFIXES else "disease"


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of a source. `kind` is "disease" or "finding"; `alt_ids` are former ids of it.

    An obsolete term is `replaced_by` one other, or the source names several to `consider`, between
    which a person has to choose.
    """

    id: str
    name: str
    kind: str
    definition: str = ""
    synonyms: tuple[str, ...] = ()
    xrefs: tuple[str, ...] = ()
    alt_ids: tuple[str, ...] = ()
    namespace: str = ""
    obsolete: bool = False
    replaced_by: str = ""
    consider: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ontology:
    """A source as read.

    terms       id to Term, obsolete ones included, in file order.
    edges       (source, relation, target) to the line that states it.
    prevalence  disease id to fraction of the population, where known.
    frequency   (disease id, finding id) to P(finding | disease); NaN where the finding is
                stated without a frequency, 0 where it is stated to be excluded.
    """

    terms: Mapping[str, Term]
    edges: Mapping[Edge, int] = field(default_factory=dict)
    prevalence: Mapping[str, float] = field(default_factory=dict)
    frequency: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def concepts(self) -> ConceptTable:
        """The arrays of all terms that are not obsolete, each relation beside its inverse."""
        terms = [term for term in self.terms.values() if not term.obsolete]
        row = {term.id: i for i, term in enumerate(terms)}
        stated = [edge for edge in self.edges if edge[0] in row and edge[2] in row]
        frequency = {pair: p for pair, p in self.frequency.items() if pair[0] in row and pair[1] in row}
        stated += [(d, "has_phenotype", f) for (d, f), p in frequency.items() if p != 0]
        forward = list(dict.fromkeys(relation for _, relation, _ in stated))
        relations = tuple(dict.fromkeys(r for name in forward for r in (name, inverse_relation(name))))
        number = {name: i for i, name in enumerate(relations)}
        source = np.array([row[s] for s, _, _ in stated], np.int64)
        target = np.array([row[t] for _, _, t in stated], np.int64)
        relation = np.array([number[r] for _, r, _ in stated], np.int64)
        inverse = np.array([number[inverse_relation(r)] for _, r, _ in stated], np.int64)

        kind = tuple(term.kind for term in terms)
        of_kind: dict[str, dict[str, int]] = {"disease": {}, "finding": {}}
        for term in terms:
            of_kind[term.kind][term.id] = len(of_kind[term.kind])
        d = np.array([of_kind["disease"][d] for d, _ in frequency], np.int64)
        f = np.array([of_kind["finding"][f] for _, f in frequency], np.int64)
        p = np.fromiter(frequency.values(), np.float32, len(frequency))
        table = ConceptTable(
            id=tuple(row),
            name=tuple(term.name for term in terms),
            definition=tuple(term.definition for term in terms),
            kind=kind,
            prevalence=np.array([self.prevalence.get(i, np.nan) for i in row], np.float32),
            source=np.concatenate([source, target]),
            target=np.concatenate([target, source]),
            relation=np.concatenate([relation, inverse]),
            relations=relations,
            frequency=SparseTable.of((len(of_kind["disease"]), len(of_kind["finding"])), d, f, p),
            synonyms=tuple(term.synonyms for term in terms),
            xrefs=tuple(term.xrefs for term in terms),
        )
        return table.check()


def check_hierarchy(path: str | Path, terms: Mapping[str, Term], edges: Mapping[Edge, int]) -> None:
    """Raise OntologyError, with the line, for an is_a to an unknown or obsolete term and for a cycle."""
    is_a = [
        (source, target, line) for (source, relation, target), line in edges.items() if relation == "is_a"
    ]
    for source, target, line in is_a:
        parent = terms.get(target)
        if parent is None:
            other = next((t.id for t in terms.values() if target in t.alt_ids), None)
            hint = f"; it is an alternative id of {other}" if other else ""
            raise OntologyError(path, line, f"{source} is_a unknown term {target}{hint}")
        if parent.obsolete and not terms[source].obsolete:
            hint = f"; it is replaced by {parent.replaced_by}" if parent.replaced_by else ""
            raise OntologyError(path, line, f"{source} is_a obsolete term {target}{hint}")
    row = {id: i for i, id in enumerate(terms)}
    ids = list(row)
    cycle = find_cycle(len(ids), [row[s] for s, _, _ in is_a], [row[t] for _, t, _ in is_a])
    if cycle:
        walk = [ids[i] for i in cycle]
        line = edges[walk[-2], "is_a", walk[-1]]
        raise OntologyError(path, line, f"is_a closes a cycle: {' -> '.join(walk)}")


def current_ids(
    terms: Mapping[str, Term], path: str | Path, lines: Mapping[str, int] | None = None
) -> dict[str, str]:
    """For each id that `terms` know, former ones included, the id of the term that stands for it today.

    A term that is not obsolete stands for itself. An obsolete one is followed along `replaced_by`;
    where that ends in nothing, and for an id without an entry of its own, the term that lists the id
    among its `alt_ids` is meant, if it is a single one. "" where nothing is left.

    path, lines  the source, and the line of each term's replaced_by, for the error.
    Raises OntologyError where replacements go in a circle.
    """
    holders: dict[str, list[str]] = defaultdict(list)
    for term in terms.values():
        for alt in term.alt_ids:
            if alt not in terms or (terms[alt].obsolete and not term.obsolete):
                holders[alt].append(term.id)
    next_ids = {
        id: [terms[id].replaced_by] if id in terms and terms[id].replaced_by else []
        for id in dict.fromkeys([*terms, *holders])
        if id not in terms or terms[id].obsolete
    }
    for id, of in holders.items():
        next_ids[id] += of if len(set(of)) == 1 else []
    _check_replacements(next_ids, path, lines or {})

    found = {id: id for id, term in terms.items() if not term.obsolete}
    for start in next_ids:
        pending = [start]
        while pending:
            id = pending[-1]
            unknown = [following for following in next_ids.get(id, ()) if following not in found]
            if unknown:
                pending.append(unknown[0])
                continue
            pending.pop()
            found.setdefault(id, next((found[n] for n in next_ids.get(id, ()) if found[n]), ""))
    return found


def _check_replacements(
    next_ids: Mapping[str, list[str]], path: str | Path, lines: Mapping[str, int]
) -> None:
    pairs = [(id, following) for id, all_ in next_ids.items() for following in all_]
    row = {id: i for i, id in enumerate(dict.fromkeys(id for pair in pairs for id in pair))}
    cycle = find_cycle(len(row), [row[a] for a, _ in pairs], [row[b] for _, b in pairs])
    if cycle:
        ids = list(row)
        walk = [ids[i] for i in cycle]
        line = next((lines[id] for id in reversed(walk) if id in lines), None)
        raise OntologyError(path, line, f"replaced_by closes a cycle: {' -> '.join(walk)}")


def mean_where_known(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there is none. How repeated statements combine."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")
