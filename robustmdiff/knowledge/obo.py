"""OBO files, 1.2 and 1.4, plain or gzipped: https://owlcollab.github.io/oboformat/doc/obo-syntax.html"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from robustmdiff.knowledge.lines import OntologyError, numbered_lines
from robustmdiff.knowledge.ontology import Edge, Ontology, Term, check_hierarchy, kind_of

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "W": " "}
_ONCE = ("id", "name", "def", "namespace", "is_obsolete")
_OFTEN = ("is_a", "relationship", "synonym", "xref", "alt_id", "replaced_by")


def read_obo(path: str | Path, *, kind: str | None = None) -> Ontology:
    """Read the terms of an OBO file, obsolete ones included.

    kind  "disease" or "finding" for every term; by default told by the id's prefix (HP and SYMP
          are findings). A term without a name takes its id as name. Of synonyms the EXACT ones
          are kept (the others name something related). Relationships to terms of other files are
          left out.

    Raises OntologyError, with file and line, for a broken stanza, a missing or duplicate id, an
    is_a to an unknown or obsolete term, a cycle of is_a, bytes that are not UTF-8, and compressed
    data that ends early.
    """
    terms: dict[str, Term] = {}
    first_line: dict[str, int] = {}
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
        for edge, line in stated.items():
            edges.setdefault(edge, line)

    for number, line in numbered_lines(path):
        if line.startswith("["):
            close_stanza()
            header, header_line = line.strip()[1:-1], number
            tags.clear()
            if not line.rstrip().endswith("]") or not header:
                raise OntologyError(path, number, f"broken stanza header {line!r}, expected e.g. [Term]")
            continue
        if not line or line.isspace() or line.startswith("!"):
            continue
        tag, colon, value = line.partition(":")
        if not colon or not tag or " " in tag:
            raise OntologyError(path, number, f"broken line {line[:60]!r}, expected 'tag: value'")
        if header is None:
            if tag == "default-namespace":
                namespace = value.strip()
        elif header == "Term" and (tag in _ONCE or tag in _OFTEN):
            tags[tag].append((number, value.strip()))
    close_stanza()
    if not terms:
        raise OntologyError(path, None, "no [Term] stanza; is it an OBO file?")
    check_hierarchy(path, terms, edges)
    return Ontology(terms, {edge: line for edge, line in edges.items() if edge[2] in terms})


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
    id = _bare(tags["id"][0][1])
    edges = {(id, "is_a", _bare(value)): line for line, value in tags["is_a"]}
    for line, value in tags["relationship"]:
        words = _bare(value).split()
        if len(words) != 2:
            raise OntologyError(path, line, f"broken relationship {value!r}, expected 'relation id'")
        edges[id, words[0], words[1]] = line
    synonyms = [(_quoted(path, *entry), _scope(entry[1])) for entry in tags["synonym"]]
    text = {tag: _bare(tags[tag][0][1]) if tags[tag] else "" for tag in ("name", "namespace", "replaced_by")}
    term = Term(
        id=id,
        name=text["name"] or id,
        kind=kind or kind_of(id),
        definition=_quoted(path, *tags["def"][0]) if tags["def"] else "",
        synonyms=tuple(dict.fromkeys(text for text, scope in synonyms if scope == "EXACT")),
        xrefs=tuple(dict.fromkeys(_bare(value).partition(' "')[0] for _, value in tags["xref"])),
        alt_ids=tuple(_bare(value) for _, value in tags["alt_id"]),
        namespace=text["namespace"] or namespace,
        obsolete=bool(tags["is_obsolete"]) and _bare(tags["is_obsolete"][0][1]) == "true",
        replaced_by=text["replaced_by"],
    )
    return term, edges


def _bare(value: str) -> str:
    """A value without its trailing comment (" ! ...") and modifiers (" {...}"), escapes resolved."""
    value = value.partition(" ! ")[0]
    if value.endswith("}"):
        value = value.partition(" {")[0]
    return _unescape(value.strip())


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
