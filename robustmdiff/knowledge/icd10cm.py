"""ICD-10-CM from the `simple-icd-10-cm` package (MIT; the classification is in the public domain).

The package carries the classification, so this source needs no network: the offline default.
"""

from __future__ import annotations

import re

from robustmdiff.knowledge.ontology import Ontology, Term

_CODE_RANGE = re.compile(r" \([A-Z]\d\w(?:-[A-Z]\d\w)?\)$")
_NOT_SPECIFIED = re.compile(r"(?:, unspecified(?: organism)?| NOS)$")
SYMPTOM_CHAPTER = "18"  # R00-R99, symptoms, signs and abnormal findings not elsewhere classified


def read_icd10cm() -> Ontology:
    """Every chapter, block, category and code as "ICD10CM:<code>", chapters by their number.

    A block of a single category has that category's code (B20 in B20): the two are one concept.
    Codes of the chapter of symptoms and signs are findings, all others diseases. Synonyms are the
    inclusion terms, and the name alone where ICD says "unspecified" or "NOS", which mean that
    nothing further is said. Raises ImportError, with the remedy, where the package is missing.
    """
    try:
        import simple_icd_10_cm as icd
    except ImportError as error:
        raise ImportError(
            "ICD-10-CM needs the package simple-icd-10-cm: pip install simple-icd-10-cm"
        ) from error
    terms: dict[str, Term] = {}
    edges = {}
    chapter = ""
    for code in icd.get_all_codes(True):  # each code after its parent
        parent = icd.get_parent(code)
        if parent == code:
            parent = icd.get_parent(code, prioritize_blocks=True)
        chapter = chapter if parent else code
        name = _CODE_RANGE.sub("", icd.get_description(code))
        synonyms = dict.fromkeys(icd.get_inclusion_term(code))
        for text in [name, *synonyms]:
            if _NOT_SPECIFIED.search(text):
                synonyms[_NOT_SPECIFIED.sub("", text)] = None
        id = f"ICD10CM:{code}"
        kind = "finding" if chapter == SYMPTOM_CHAPTER else "disease"
        terms[id] = Term(id, name, kind, synonyms=tuple(synonyms))
        if parent:
            edges[id, "is_a", f"ICD10CM:{parent}"] = 0
    return Ontology(terms, edges)
