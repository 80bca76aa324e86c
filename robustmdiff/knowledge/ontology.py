"""What a knowledge source says, in its own words: terms, edges, prevalence, frequencies.

Readers make an `Ontology` (strings and dicts, sparse); `concepts()` turns it into the arrays of
a `ConceptTable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robustmdiff.knowledge.concepts import ConceptTable, inverse_relation
from robustmdiff.knowledge.csr import find_cycle
from robustmdiff.knowledge.lines import OntologyError
from robustmdiff.knowledge.sparse import SparseTable

Edge = tuple[str, str, str]  # (source id, relation, target id)

FINDING_PREFIXES = frozenset({"HP", "SYMP"})


def kind_of(id: str) -> str:
    """ "finding" for ids of the HPO and of the Symptom Ontology, otherwise "disease"."""
    return "finding" if id.partition(":")[0] in FINDING_PREFIXES else "disease"


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of a source. `kind` is "disease" or "finding"; `alt_ids` are former ids of it."""

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
        stated += [(d, "has_phenotype", f) for (d, f), p in self.frequency.items() if p != 0]
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
        d = np.array([of_kind["disease"][d] for d, _ in self.frequency], np.int64)
        f = np.array([of_kind["finding"][f] for _, f in self.frequency], np.int64)
        p = np.fromiter(self.frequency.values(), np.float32, len(self.frequency))
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


def mean_where_known(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there is none. How repeated statements combine."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")
