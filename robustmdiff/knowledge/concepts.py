"""What a model knows before it sees a patient: concepts, how they relate, how common they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from robustmdiff.csr import csr_from_edges
from robustmdiff.knowledge.cycle import find_cycle
from robustmdiff.knowledge.sparse import SparseTable
from robustmdiff.refusal import Refusal

KINDS = ("disease", "finding")
INVERSES = {"is_a": "has_subclass", "has_phenotype": "phenotype_of", "part_of": "has_part"}


@dataclass(frozen=True)
class ConceptTable:
    """k concepts (diseases and findings) and the relations between them.

    id, name     k strings each.
    definition   k strings, "" where the source gives none.
    kind         k strings, "disease" or "finding".
    prevalence   float32 [k], fraction of the population, NaN where unknown.
    source, target, relation
                 int64 [E]: edge e says that `source[e]` informs `target[e]` by relation
                 `relations[relation[e]]` ("is_a", "has_phenotype", and their inverses
                 "has_subclass" and "phenotype_of", which are relations of their own).
    frequency    sparse float32 [diseases, findings], P(finding | disease), NaN where nothing is
                 stated; rows and columns in the order in which diseases and findings appear in
                 `kind`. A dense array of that shape is taken too, and kept sparsely.
    synonyms, xrefs
                 k tuples of strings (other names; ids in other sources), or () for none at all.
    """

    id: tuple[str, ...]
    name: tuple[str, ...]
    definition: tuple[str, ...]
    kind: tuple[str, ...]
    prevalence: np.ndarray
    source: np.ndarray
    target: np.ndarray
    relation: np.ndarray
    relations: tuple[str, ...]
    frequency: SparseTable
    synonyms: tuple[tuple[str, ...], ...] = ()
    xrefs: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.frequency, np.ndarray):
            object.__setattr__(self, "frequency", SparseTable.from_dense(self.frequency))

    def __len__(self) -> int:
        return len(self.id)

    def indices(self, kind: str) -> np.ndarray:
        """Rows of one kind, int64, ascending."""
        return np.flatnonzero(np.asarray(self.kind) == kind)

    def csr(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges sorted by target: rowptr int64 [k + 1], col int64 [E] (sources), relation int64 [E]."""
        rowptr, col, order = csr_from_edges(self.source, self.target, len(self))
        return rowptr, col, self.relation[order]

    def check(self) -> ConceptTable:
        """Return the table itself, or raise ValueError that names the field, its value and the rule."""
        k, E = len(self), len(self.source)
        for name in ("name", "definition", "kind"):
            _require(
                len(getattr(self, name)) == k, f"{name} has {len(getattr(self, name))} entries, expected {k}"
            )
        for name in ("synonyms", "xrefs"):
            length = len(getattr(self, name))
            _require(length in (0, k), f"{name} has {length} entries, expected {k} or none")
        if len(set(self.id)) != k:
            raise Refusal(f"concepts: id {Counter(self.id).most_common(1)[0][0]!r} appears twice")
        for i, kind in enumerate(self.kind):
            if kind not in KINDS:
                raise Refusal(f"concepts: kind[{i}] is {kind!r}, expected one of {KINDS}")
        _require_array("prevalence", self.prevalence, np.float32, (k,))
        _require_fractions("prevalence", self.prevalence)
        for name, limit in (("source", k), ("target", k), ("relation", len(self.relations))):
            values = getattr(self, name)
            _require_array(name, values, np.int64, (E,))
            outside = np.flatnonzero((values < 0) | (values >= limit))
            if len(outside):
                raise Refusal(
                    f"concepts: {name}[{outside[0]}] is {values[outside[0]]}, expected 0 to {limit - 1}"
                )
        shape = (len(self.indices("disease")), len(self.indices("finding")))
        _require(
            self.frequency.shape == shape,
            f"frequency is {list(self.frequency.shape)}, expected {list(shape)}",
        )
        _require_fractions("frequency", self.frequency.value)

        is_a = self._edges("is_a")
        cycle = find_cycle(k, self.source[is_a].tolist(), self.target[is_a].tolist())
        if cycle:
            raise Refusal(f"concepts: is_a closes a cycle: {' -> '.join(self.id[i] for i in cycle)}")
        return self

    def subset(self, ids: Iterable[str], *, ancestors: bool = True, phenotypes: bool = False) -> ConceptTable:
        """The concepts named by `ids` in the order of this table, with the edges among them.

        phenotypes  also the findings that the chosen diseases have (has_phenotype).
        ancestors   also every ancestor by is_a of what was chosen.
        Raises ValueError for an id that is not here.
        """
        row = {id: i for i, id in enumerate(self.id)}
        ids = list(ids)
        unknown = next((id for id in ids if id not in row), None)
        _require(unknown is None, f"subset: no concept {unknown!r}")
        chosen = np.zeros(len(self), bool)
        chosen[[row[id] for id in ids]] = True
        if phenotypes:
            has = self._edges("has_phenotype")
            chosen[self.target[has[chosen[self.source[has]]]]] = True
        rows = np.flatnonzero(chosen)
        return self._take(np.array(sorted(self.ancestors(rows.tolist())), np.int64) if ancestors else rows)

    def ancestors(self, rows: Iterable[int]) -> set[int]:
        """The given rows and everything that they are, directly or not, by is_a."""
        is_a = self._edges("is_a")
        reached = np.zeros(len(self), bool)
        reached[list(rows)] = True
        grown = True
        while grown:
            parents = self.target[is_a[reached[self.source[is_a]]]]
            grown = not reached[parents].all()
            reached[parents] = True
        return set(np.flatnonzero(reached).tolist())

    def merge(self, other: ConceptTable) -> ConceptTable:
        """Both tables as one; concepts with the same id become one.

        Where both say something, this table's word stands (a name that only repeats the id says
        nothing), the other's name becoming a synonym; synonyms, cross-references and edges of
        both are kept. Raises ValueError where
        the kinds of one id differ or the hierarchies together have a cycle.
        """
        row = {id: i for i, id in enumerate(self.id)}
        for id in other.id:
            row.setdefault(id, len(row))
        k = len(row)
        mine, theirs = np.arange(len(self)), np.array([row[id] for id in other.id], np.int64)
        kind, name, definition = [""] * k, [""] * k, [""] * k
        synonyms: list[tuple[str, ...]] = [()] * k
        xrefs: list[tuple[str, ...]] = [()] * k
        prevalence = np.full(k, np.nan, np.float32)
        for table, rows in ((self, mine), (other, theirs)):
            for i, r in enumerate(rows.tolist()):
                if kind[r] not in ("", table.kind[i]):
                    raise Refusal(f"concepts: {table.id[i]} is a {kind[r]} here and a {table.kind[i]} there")
                kind[r] = table.kind[i]
                names = [n for n in (name[r], table.name[i]) if n not in ("", table.id[i])]
                name[r] = names[0] if names else table.id[i]
                definition[r] = definition[r] or table.definition[i]
                said = [*synonyms[r], *names[1:], *(table.synonyms[i] if table.synonyms else ())]
                synonyms[r] = tuple(word for word in dict.fromkeys(said) if word != name[r])
                xrefs[r] = tuple(dict.fromkeys(xrefs[r] + (table.xrefs[i] if table.xrefs else ())))
            prevalence[rows] = np.where(np.isnan(prevalence[rows]), table.prevalence, prevalence[rows])

        relations = tuple(dict.fromkeys(self.relations + other.relations))
        number = {name: i for i, name in enumerate(relations)}
        edges = np.concatenate(
            [
                np.stack([rows[t.source], rows[t.target], names[t.relation]])
                for t, rows in ((self, mine), (other, theirs))
                for names in [np.array([number[name] for name in t.relations], np.int64)]
            ],
            axis=1,
        )
        _, first = np.unique(edges, axis=1, return_index=True)
        source, target, relation = edges[:, np.sort(first)]

        position = _position_in_kind(kind)
        d, f, p = (
            np.concatenate(part)
            for part in zip(
                *(
                    (
                        position[rows[t.indices("disease")[t.frequency.row]]],
                        position[rows[t.indices("finding")[t.frequency.column]]],
                        t.frequency.value,
                    )
                    for t, rows in ((other, theirs), (self, mine))  # ours last: it overwrites
                ),
                strict=True,
            )
        )
        return ConceptTable(
            id=tuple(row),
            name=tuple(name),
            definition=tuple(definition),
            kind=tuple(kind),
            prevalence=prevalence,
            source=source,
            target=target,
            relation=relation,
            relations=relations,
            frequency=SparseTable.of((kind.count("disease"), kind.count("finding")), d, f, p),
            synonyms=tuple(synonyms) if any(synonyms) else (),
            xrefs=tuple(xrefs) if any(xrefs) else (),
        ).check()

    def _edges(self, relation: str) -> np.ndarray:
        if relation not in self.relations:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.relation == self.relations.index(relation))

    def _take(self, rows: np.ndarray) -> ConceptTable:
        """The given rows (ascending) and the edges among them."""
        new = np.full(len(self), -1, np.int64)
        new[rows] = np.arange(len(rows))
        kept = (new[self.source] >= 0) & (new[self.target] >= 0)
        position = _position_in_kind(self.kind)
        kind = np.asarray(self.kind)[rows]
        d, f = position[rows[kind == "disease"]], position[rows[kind == "finding"]]
        take = rows.tolist()
        return ConceptTable(
            id=tuple(self.id[i] for i in take),
            name=tuple(self.name[i] for i in take),
            definition=tuple(self.definition[i] for i in take),
            kind=tuple(self.kind[i] for i in take),
            prevalence=self.prevalence[rows],
            source=new[self.source[kept]],
            target=new[self.target[kept]],
            relation=self.relation[kept],
            relations=self.relations,
            frequency=self.frequency.part(d, f),
            synonyms=tuple(self.synonyms[i] for i in take) if self.synonyms else (),
            xrefs=tuple(self.xrefs[i] for i in take) if self.xrefs else (),
        )


NOTHING_KNOWN = ConceptTable(
    id=(),
    name=(),
    definition=(),
    kind=(),
    prevalence=np.zeros(0, np.float32),
    source=np.zeros(0, np.int64),
    target=np.zeros(0, np.int64),
    relation=np.zeros(0, np.int64),
    relations=(),
    frequency=SparseTable.empty(0, 0),
)


def inverse_relation(relation: str) -> str:
    """Name of the relation in the other direction: "is_a" gives "has_subclass"."""
    return INVERSES.get(relation, f"inverse_{relation}")


def _position_in_kind(kind: Iterable[str]) -> np.ndarray:
    """For each concept its number among the concepts of its kind, int64 [k]."""
    kinds = np.asarray(list(kind))
    position = np.zeros(len(kinds), np.int64)
    for name in KINDS:
        of_kind = kinds == name
        position[of_kind] = np.arange(of_kind.sum())
    return position


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise Refusal(f"concepts: {problem}")


def _require_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        expected = f"{np.dtype(dtype)} {list(shape)}"
        raise Refusal(f"concepts: {name} is {array.dtype} {list(array.shape)}, expected {expected}")


def _require_fractions(name: str, array: np.ndarray) -> None:
    low, high = (np.fmin.reduce(array, None), np.fmax.reduce(array, None)) if array.size else (0.0, 0.0)
    if low < 0 or high > 1:
        raise Refusal(f"concepts: {name} runs from {low} to {high}, expected fractions in [0, 1] or NaN")
