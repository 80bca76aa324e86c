"""The findings that a report mentions: what `report.write` wrote, read again."""

from __future__ import annotations

import re

import numpy as np

from robustmdiff.data.cohort.report import SYNONYMS
from robustmdiff.data.cohort.table import FINDINGS

_WORD = re.compile(r"[\w-]+|[^\w\s]")
_PHRASES = {
    tuple(_WORD.findall(phrase.lower())): FINDINGS.index(finding)
    for finding, phrases in SYNONYMS.items()
    for phrase in phrases
}
_LONGEST = max(map(len, _PHRASES))


def findings_of(text: str) -> np.ndarray:
    """int8 [F] of a report in the cohort's grammar: 1 said, with doubt or without, 0 denied, -1 not
    mentioned, which means absent.

    A phrase counts wherever it stands, so text that follows the grammar badly is read as far as it goes. In
    a long word that no phrase has, two neighbouring letters that changed places are put back.
    """
    words = [_CORRECTED.get(word, word) for word in _WORD.findall(text.lower())]
    found = np.full(len(FINDINGS), -1, dtype=np.int8)
    for start in range(len(words)):
        for stop in range(start + 1, min(start + _LONGEST, len(words)) + 1):
            f = _PHRASES.get(tuple(words[start:stop]))
            if f is not None:
                found[f] = max(found[f], 0 if words[start - 1 : start] == ["no"] else 1)
    return found


def _mistyped() -> dict[str, str]:
    """Every long word of a phrase by each spelling with two neighbouring letters swapped, the first apart,
    where it is the only one."""
    known = {word for phrase in _PHRASES for word in phrase}
    spelled: dict[str, set[str]] = {}
    for word in known:
        for k in range(1, len(word) - 1 if len(word) >= 5 else 0):
            swapped = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
            spelled.setdefault(swapped, set()).add(word)
    return {wrong: right.pop() for wrong, right in spelled.items() if wrong not in known and len(right) == 1}


_CORRECTED = _mistyped()
