"""OBO files, 1.2 and 1.4, plain or gzipped: https://owlcollab.github.io/oboformat/doc/obo-syntax.html"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from robustmdiff.knowledge.lines import OntologyError, numbered_lines
from robustmdiff.knowledge.ontology import (
    Edge,
    Ontology,
    Term,
    check_hierarchy,
    current_ids,
    kind_of,
)

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# A value up to its trailing modifiers {...} and comment !..., which both may be there.
_VALUE = re.compile(
    r"""((?:[^\\!]|\\.)*?) \s* (?:\{(?:"(?:[^"\\]|\\.)*"|[^"{}\\]|\\.)*\})? \s* (?:!.*)? $""", re.X
)
_SPECIAL = re.compile(r"[\\!{]")
_STANZA = re.compile(r"\[([^\[\]]+)\]\s*(?:!.*)?$")
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "W": " "}
_ONCE = ("id", "name", "def", "namespace", "is_obsolete")
_OFTEN = ("is_a", "relationship", "synonym", "exact_synonym", "xref", "alt_id", "replaced_by", "consider")
_FORMERLY = {"xref_analog": "xref", "xref_unk": "xref", "use_term": "consider"}  # names of OBO 1.0


def read_obo(path: str | Path, *, kind: str | None = None) -> Ontology:
    """Read the terms of an OBO file, obsolete ones included.

    kind  "disease" or "finding" for every term; by default told by the id's prefix (HP and SYMP
          are findings). A term without a name takes its id as name. Of synonyms the EXACT ones
          are kept (the others name something related). Relationships to terms of other files are
          left out, and so is, with a warning, an is_a to another ontology: to an id whose prefix no
          term of this file has. Several replaced_by of one term are alternatives to consider.

    Raises OntologyError, with file and line, for a broken stanza, a missing or duplicate id, an
    is_a to an unknown or obsolete term, a cycle of is_a or of replaced_by, bytes that are not
    UTF-8, and compressed data that ends early.
    """
    terms: dict[str, Term] = {}
    first_line: dict[str, int] = {}
    replaced_line: dict[str, int] = {}
    edges: dict[Edge, int] = {}
    namespace = ""
    header: str | None = None  # the kind of stanza we are in; None before the first
    header_line = 0
    tags: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def close_stanza() -> None:
        if header != "Term":
            return
        term, stated = _term(path, header_line, tags, namespace, kind)
        if term.id in terms:
            line = tags["id"][0][0]
            raise OntologyError(path, line, f"duplicate id {term.id}, first on line {first_line[term.id]}")
        terms[term.id] = term
        first_line[term.id] = tags["id"][0][0]
        if term.replaced_by:
            replaced_line[term.id] = tags["replaced_by"][0][0]
        for edge, line in stated.items():
            edges.setdefault(edge, line)

    for number, line in _logical_lines(path):
        if line.startswith("["):
            close_stanza()
            stanza = _STANZA.match(line)
            if stanza is None:
                raise OntologyError(path, number, f"broken stanza header {line!r}, expected e.g. [Term]")
            header, header_line = stanza[1], number
            tags.clear()
            continue
        if not line or line.isspace() or line.startswith("!"):
            continue
        tag, colon, value = line.partition(":")
        if not colon or not tag or " " in tag:
            raise OntologyError(path, number, f"broken line {line[:60]!r}, expected 'tag: value'")
        tag = _FORMERLY.get(tag, tag)
        if header is None:
            if tag == "default-namespace":
                namespace = _bare(path, number, value)
        elif header == "Term" and (tag in _ONCE or tag in _OFTEN):
            tags[tag].append((number, value.strip()))
    close_stanza()
    if not terms:
        raise OntologyError(path, None, "no [Term] stanza; is it an OBO file?")
    _leave_out_other_ontologies(path, terms, edges)
    check_hierarchy(path, terms, edges)
    current_ids(terms, path, replaced_line)
    return Ontology(terms, {edge: line for edge, line in edges.items() if edge[2] in terms})


def _logical_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines under the number of their first, those that end in an escape joined with the next."""
    first, kept = 0, ""
    for number, line in numbered_lines(path):
        first = first if kept else number
        if (len(line) - len(line.rstrip("\\"))) % 2 and not line.startswith("!"):
            kept += line[:-1]
            continue
        yield first, kept + line
        kept = ""
    if kept:
        raise OntologyError(path, first, "the file ends where this line is to be continued")


def _leave_out_other_ontologies(path: str | Path, terms: dict[str, Term], edges: dict[Edge, int]) -> None:
    """Take out each is_a to an id whose prefix no term here has, and say so."""
    own = {id.partition(":")[0] for id in terms}
    elsewhere = [
        edge
        for edge in edges
        if edge[1] == "is_a" and edge[2] not in terms
        if edge[2].partition(":")[0] not in own
    ]
    if elsewhere:
        source, _, target = elsewhere[0]
        warnings.warn(
            f"{path}:{edges[elsewhere[0]]}: {len(elsewhere)} is_a to other ontologies are left out, the "
            f"first from {source} to {target}",
            stacklevel=3,
        )
    for edge in elsewhere:
        del edges[edge]


def _term(
    path: str | Path,
    header_line: int,
    tags: dict[str, list[tuple[int, str]]],
    namespace: str,
    kind: str | None,
) -> tuple[Term, dict[Edge, int]]:
    for tag in _ONCE:
        if len(tags[tag]) > 1:
            raise OntologyError(path, tags[tag][1][0], f"broken stanza: a second {tag!r} in one [Term]")
    if not tags["id"]:
        raise OntologyError(path, header_line, "missing id in this [Term]")
    for line, value in (entry for values in tags.values() for entry in values):
        if not value:
            raise OntologyError(path, line, "broken stanza: a tag without a value")

    def bare(tag: str) -> list[str]:
        return [_bare(path, *entry) for entry in tags[tag]]

    def one(tag: str) -> str:
        return next(iter(bare(tag)), "")

    id = one("id")
    edges = {(id, "is_a", _bare(path, *entry)): entry[0] for entry in tags["is_a"]}
    for line, value in tags["relationship"]:
        words = _bare(path, line, value).split()
        if len(words) != 2:
            raise OntologyError(path, line, f"broken relationship {value!r}, expected 'relation id'")
        edges[id, words[0], words[1]] = line
    obsolete = one("is_obsolete") or "false"
    if obsolete not in ("true", "false"):
        problem = f"broken stanza: is_obsolete is {obsolete!r}, expected true or false"
        raise OntologyError(path, tags["is_obsolete"][0][0], problem)
    synonyms = [(_quoted(path, *entry), _scope(entry[1])) for entry in tags["synonym"]]
    synonyms += [(_quoted(path, *entry), "EXACT") for entry in tags["exact_synonym"]]
    replaced_by = bare("replaced_by")
    term = Term(
        id=id,
        name=one("name") or id,
        kind=kind or kind_of(id),
        definition=_quoted(path, *tags["def"][0]) if tags["def"] else "",
        synonyms=tuple(dict.fromkeys(text for text, scope in synonyms if scope == "EXACT")),
        xrefs=tuple(dict.fromkeys(xref.partition(' "')[0] for xref in bare("xref"))),
        alt_ids=tuple(bare("alt_id")),
        namespace=one("namespace") or namespace,
        obsolete=obsolete == "true",
        replaced_by=replaced_by[0] if len(replaced_by) == 1 else "",
        consider=tuple((replaced_by if len(replaced_by) > 1 else []) + bare("consider")),
    )
    return term, edges


def _bare(path: str | Path, line: int, value: str) -> str:
    """A value without its trailing modifiers (" {...}") and comment (" ! ..."), escapes resolved."""
    if not _SPECIAL.search(value):
        return value.strip()
    match = _VALUE.match(value)
    if match is None:
        raise OntologyError(path, line, f"broken stanza: {value[:60]!r} ends in an escape")
    return _unescape(match[1].strip())


def _quoted(path: str | Path, line: int, value: str) -> str:
    match = _QUOTED.match(value)
    if match is None:
        raise OntologyError(path, line, f"broken stanza: {value[:60]!r}, expected a text in double quotes")
    return _unescape(match[1])


def _scope(synonym: str) -> str:
    """EXACT, BROAD, NARROW or RELATED (also where none is given) of a well-formed synonym."""
    words = _QUOTED.sub("", synonym, count=1).split(maxsplit=1)
    return words[0] if words and words[0].isupper() else "RELATED"


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)
