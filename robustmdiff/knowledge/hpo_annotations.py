"""Which findings which disease has, from the HPO's annotation files.

Reads both layouts: phenotype_annotation.tab (14 columns, without a header, until 2018) and
phenotype.hpoa (12 columns under comments and a header, since). Both are free to use with the HPO
and its version named, and must not be altered.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from robustmdiff.knowledge.frequency import BAND_WORDS, OLD_WORDS, Counted, annotated_fraction, pooled
from robustmdiff.knowledge.lines import OntologyError, find_file, not_there, numbered_lines, warn_of_missing
from robustmdiff.knowledge.obo import read_obo
from robustmdiff.knowledge.ontology import Ontology, Term, current_ids

# Column names as headers give them, without case and "_" (DatabaseID and database_id were both used).
COLUMNS = (
    *("databaseid", "diseasename", "qualifier", "hpoid", "reference", "evidence"),
    *("onset", "frequency", "sex", "modifier", "aspect", "biocuration"),
)
NEEDED = frozenset(COLUMNS) - {"evidence", "biocuration"}
OLD_COLUMNS = 14
# An annotation's aspect: phenotypes are O in the old files and P in the new; the rest is
# inheritance, course, modifiers and past history, which no patient shows.
PHENOTYPES, OTHERS = frozenset("OP"), frozenset("ICMH")


# The names under which the HPO publishes the two files, today's first.
ONTOLOGY = ("hp.obo", "hp-base.obo", "hp-full.obo", "hp-international.obo")
ANNOTATIONS = ("phenotype.hpoa", "phenotype_annotation.tab")


class Annotation(NamedTuple):
    """One row. `study` is what tells statements of the same disease and finding apart."""

    line: int
    disease: str
    name: str
    qualifier: str
    finding: str
    frequency: str
    aspect: str
    study: tuple[str, ...]
    synonyms: str
    words: Mapping[str, float]

    def fraction(self) -> float:
        stated = annotated_fraction(self.frequency, self.words)
        if "NOT" not in re.split("[^A-Z]+", self.qualifier.upper()):
            return stated
        return Counted(0, stated.patients) if isinstance(stated, Counted) else 0.0


def read_hpo_annotations(path: str | Path, hpo: Ontology) -> Ontology:
    """The terms of `hpo` with the diseases of the annotation file beside them.

    hpo  the HPO as `read_obo` gives it; the annotations' ids may be former ids of its terms
         (`current_ids`).

    P(finding | disease) comes from the frequency column (`annotated_fraction`), NaN where that is
    empty, 0 where the finding is qualified NOT; rows of one disease and finding are `pooled`, equal
    rows (same reference, onset, sex, modifier and frequency) counting once. Left out with a
    warning: annotations of obsolete findings for which nothing single stands today, and rows of an
    unknown aspect. Raises OntologyError, with file and line, for a damaged file, a missing column,
    an unknown finding, an unreadable frequency, and a disease that is a finding of `hpo`.
    """
    path = Path(path)
    current = current_ids(hpo.terms, path)
    diseases: dict[str, Term] = {}
    stated: dict[tuple[str, str], dict[tuple[str, ...], float]] = defaultdict(dict)
    obsolete: list[Annotation] = []
    aspects: Counter[str] = Counter()
    for row in _annotations(path):
        if row.aspect not in PHENOTYPES:
            aspects[row.aspect] += row.aspect not in OTHERS
            continue
        finding = current.get(row.finding)
        if finding is None:
            problem = f"unknown finding {row.finding!r}; is the HPO file of another release?"
            raise OntologyError(path, row.line, problem)
        if not finding:
            obsolete.append(row)
            continue
        _check_kinds(path, row, finding, hpo)
        try:
            fraction = row.fraction()
        except ValueError as error:
            raise OntologyError(path, row.line, str(error)) from error
        known = diseases.setdefault(row.disease, Term(row.disease, row.name or row.disease, "disease"))
        if row.synonyms and not known.synonyms:
            synonyms = tuple(s for s in row.synonyms.split("|") if "://" not in s)
            diseases[row.disease] = replace(known, synonyms=synonyms)
        stated[row.disease, finding][*row.study, row.qualifier, row.frequency] = fraction
    if not (stated or obsolete or aspects):
        raise OntologyError(path, None, "no annotations; is it phenotype.hpoa, and whole?")
    _warn(path, obsolete, aspects, hpo)
    frequency_of = {pair: pooled(statements.values()) for pair, statements in stated.items()}
    new = {id: term for id, term in diseases.items() if id not in hpo.terms}
    return Ontology({**hpo.terms, **new}, hpo.edges, hpo.prevalence, frequency_of)


def read_hpo(folder: str | Path) -> Ontology:
    """The HPO and its disease annotations, hp.obo and phenotype.hpoa (or ONTOLOGY, ANNOTATIONS).

    Without annotations there are findings only, which a warning says. Raises FileNotFoundError
    without the ontology, of which the annotations give ids alone.
    """
    obo, annotations = find_file(folder, *ONTOLOGY), find_file(folder, *ANNOTATIONS)
    if obo is None:
        beside = f" beside {annotations.name}" if annotations else ""
        raise not_there(folder, f"{ONTOLOGY[0]} is not there{beside}; take both of one release")
    if annotations is None:
        warn_of_missing(folder, {ANNOTATIONS[0]: "diseases"})
        return read_obo(obo)
    return read_hpo_annotations(annotations, read_obo(obo))


def _annotations(path: Path) -> Iterator[Annotation]:
    """The rows of either layout; a full header, where there is one, says where the columns are."""
    at, width = {name: i for i, name in enumerate(COLUMNS)}, 0
    for line, text in numbered_lines(path):
        cells = [cell.strip() for cell in text.split("\t")]
        if _plain(cells[0]) == COLUMNS[0]:
            if len(cells) >= len(COLUMNS):
                at, width = _header(path, line, cells), len(cells)
            continue
        if not text.strip() or text.startswith("#"):
            continue
        if len(cells) not in ((width,) if width else (OLD_COLUMNS, len(COLUMNS))):
            expected = f"{width} as in the header" if width else f"{OLD_COLUMNS} or {len(COLUMNS)}"
            raise OntologyError(path, line, f"{len(cells)} columns, expected {expected}")
        if not width and len(cells) == OLD_COLUMNS:
            yield Annotation(
                line=line,
                disease=f"{cells[0]}:{cells[1]}",
                name=cells[2],
                qualifier=cells[3],
                finding=cells[4],
                frequency=cells[8],
                aspect=cells[10].upper(),
                study=(cells[5], cells[7], cells[9]),
                synonyms=cells[11],
                words=OLD_WORDS,
            )
        else:
            yield Annotation(
                line=line,
                disease=cells[at["databaseid"]],
                name=cells[at["diseasename"]],
                qualifier=cells[at["qualifier"]],
                finding=cells[at["hpoid"]],
                frequency=cells[at["frequency"]],
                aspect=cells[at["aspect"]].upper(),
                study=tuple(cells[at[name]] for name in ("reference", "onset", "sex", "modifier")),
                synonyms="",
                words=BAND_WORDS,
            )


def _header(path: Path, line: int, cells: list[str]) -> dict[str, int]:
    """Where each column is."""
    at = {_plain(cell): i for i, cell in enumerate(cells)}
    missing = next((name for name in COLUMNS if name in NEEDED and name not in at), None)
    if missing:
        raise OntologyError(path, line, f"no column {missing!r}; the header has {cells}")
    return at


def _plain(name: str) -> str:
    return name.lower().replace("_", "").lstrip("#").strip()


def _check_kinds(path: Path, row: Annotation, finding: str, hpo: Ontology) -> None:
    """The disease must be one, and the finding must be one."""
    prefix, colon, number = row.disease.partition(":")
    if not (prefix and colon and number):
        raise OntologyError(path, row.line, f"disease id {row.disease!r}, expected e.g. 'OMIM:154700'")
    if row.disease in hpo.terms and hpo.terms[row.disease].kind != "disease":
        raise OntologyError(path, row.line, f"the disease {row.disease} is a finding of the ontology given")
    if hpo.terms[finding].kind != "finding":
        raise OntologyError(path, row.line, f"the finding {finding} is a disease of the ontology given")


def _warn(path: Path, obsolete: list[Annotation], aspects: Counter[str], hpo: Ontology) -> None:
    """Say once for the whole file what was left out."""
    if obsolete:
        first = obsolete[0]
        term = hpo.terms.get(first.finding)
        consider = f" (consider {', '.join(term.consider)})" if term and term.consider else ""
        warnings.warn(
            f"{path}: {len(obsolete)} annotations of obsolete findings are left out, the first on line "
            f"{first.line}: {first.finding}{consider}",
            stacklevel=3,
        )
    if unknown := {aspect: n for aspect, n in aspects.items() if n}:
        warnings.warn(
            f"{path}: {sum(unknown.values())} annotations of the unknown aspects {sorted(unknown)} are left "
            f"out, expected one of {sorted(PHENOTYPES | OTHERS)}",
            stacklevel=3,
        )
