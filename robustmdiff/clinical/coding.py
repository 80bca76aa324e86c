"""The coding scheme of what no public terminology has: the names of a task, and what is said with them.

docs/clinical_formats.md lists the codes. The scheme's UID is 2.25 and a random UUID (ITU-T X.667), which
needs no registration, and serves DICOM as a UID and FHIR as an OID.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from robustmdiff.spelling import canonical

DESIGNATOR = "99RMD"  # of a private scheme: "99" and what its owner chooses (DICOM PS3.16, section 8)
SCHEME_UID = "2.25.45338759363531437222687345492464686150"


class Concept(NamedTuple):
    """code of at most 16 characters (DICOM's SH), and what it means."""

    code: str
    meaning: str


ANSWER = Concept("answer", "Answer")
CLASS = Concept("class", "Class")
FINDING = Concept("finding", "Finding")
INTERVAL = Concept("interval", "5 % and 95 % of the draws")
IN_SET = Concept("in-set", "In the prediction set")
SET_MEMBER = Concept("set-member", "Class that cannot be ruled out")
USED = Concept("modality-used", "Modality used")
MISSING = Concept("modality-missing", "Modality missing")
UNLIKE_TRAINING = Concept("unlike-training", "Unlike the patients trained on")
NOTHING_KNOWN = Concept("nothing-known", "Nothing known: the answer is the prevalence")
ANSWER_OF = Concept("answer-of", "Whose answer it is")
ANSWERS = {  # by the names that models give them
    "draws": Concept("draws", "Mean of the draws of what is missing"),
    "head": Concept("head", "Head of the model, without draws"),
    "full-view head": Concept("full-view-head", "What seeing everything is expected to say"),
}
DRAWS = "Draws of what the missing modalities could still show; not a population of patients"


def name_code(name: str) -> str:
    """The code of a class, a finding or a modality: 60 bits of the SHA-256 of its name as names are compared,
    so that one name has one code in every report of every model."""
    return f"n{hashlib.sha256(canonical(name).encode()).hexdigest()[:15]}"
