"""Which findings which disease has, from the HPO's annotation files.

Reads both layouts: phenotype_annotation.tab (14 columns, without a header, until 2018) and
phenotype.hpoa (12 columns under comments and a header, since). Both are free to use with the HPO
and its version named, and must not be altered.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from robustmdiff.knowledge.frequency import annotated_fraction
from robustmdiff.knowledge.lines import OntologyError, numbered_lines
from robustmdiff.knowledge.ontology import Ontology, Term, mean_where_known

OLD_COLUMNS, NEW_COLUMNS = 14, 12
# An annotation's aspect: phenotypes are O in the old files and P in the new; the rest is
# inheritance, course and onset, which no patient shows.
PHENOTYPES = frozenset("OP")


def read_hpo_annotations(path: str | Path, hpo: Ontology) -> Ontology:
    """The terms of `hpo` with the diseases of the annotation file beside them.

    hpo  the HPO as `read_obo` gives it; the annotations' ids may be alternative ids of its terms
         or obsolete with a replacement.

    P(finding | disease) comes from the frequency column (`annotated_fraction`), NaN where that is
    empty, 0 for annotations qualified NOT, and is averaged over repeated statements. Annotations
    of obsolete findings without a replacement are left out with a warning. Raises OntologyError,
    with file and line, for a damaged file, an unknown finding and an unreadable frequency.
    """
    current = {alt: term.id for term in hpo.terms.values() for alt in term.alt_ids}
    current |= {id: term.replaced_by if term.obsolete else id for id, term in hpo.terms.items()}
    diseases: dict[str, Term] = {}
    stated: dict[tuple[str, str], list[float]] = defaultdict(list)
    left_out = 0
    for line, text in numbered_lines(path):
        if not text or text.startswith(("#", "database_id\t")):
            continue
        cells = text.split("\t")
        if len(cells) == OLD_COLUMNS:
            id, name = f"{cells[0]}:{cells[1]}", cells[2]
            qualifier, finding, frequency, aspect, synonyms = (cells[i] for i in (3, 4, 8, 10, 11))
        elif len(cells) == NEW_COLUMNS:
            id, name, qualifier, finding, frequency, aspect = (cells[i] for i in (0, 1, 2, 3, 7, 10))
            synonyms = ""
        else:
            raise OntologyError(path, line, f"{len(cells)} columns, expected {OLD_COLUMNS} or {NEW_COLUMNS}")
        if aspect not in PHENOTYPES:
            continue
        if finding not in current:
            raise OntologyError(
                path, line, f"unknown finding {finding!r}; is the HPO file of another release?"
            )
        if not current[finding]:
            left_out += 1
            continue
        try:
            fraction = 0.0 if "NOT" in qualifier.upper().split(",") else annotated_fraction(frequency)
        except ValueError as error:
            raise OntologyError(path, line, str(error)) from error
        known = diseases.setdefault(id, Term(id, name, "disease"))
        if synonyms and not known.synonyms:
            diseases[id] = replace(known, synonyms=tuple(s for s in synonyms.split("|") if "://" not in s))
        stated[id, current[finding]].append(fraction)
    if left_out:
        warnings.warn(f"{path}: {left_out} annotations of obsolete findings are left out", stacklevel=2)
    frequency_of = {pair: mean_where_known(values) for pair, values in stated.items()}
    return Ontology({**hpo.terms, **diseases}, hpo.edges, hpo.prevalence, frequency_of)
