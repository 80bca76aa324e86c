"""How often a disease shows a finding: from the words of HPO and Orphanet to numbers.

Bands are those of the HPO's frequency terms (Köhler et al. 2019, Nucleic Acids Research 47,
table 2), which Orphanet shares; each stands for its midpoint. Files of before 2018 use older
words with one value each (HPO annotation guide of that time, table 2): "frequent" was .33 then
and is 30 to 79 % now.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from robustmdiff.refusal import Refusal


class Band(NamedTuple):
    """A frequency term: HPO id, name, and the lowest and highest fraction it covers."""

    id: str
    name: str
    low: float
    high: float

    @property
    def midpoint(self) -> float:
        return (self.low + self.high) / 2


BANDS = (
    Band("HP:0040280", "Obligate", 1.00, 1.00),
    Band("HP:0040281", "Very frequent", 0.80, 0.99),
    Band("HP:0040282", "Frequent", 0.30, 0.79),
    Band("HP:0040283", "Occasional", 0.05, 0.29),
    Band("HP:0040284", "Very rare", 0.01, 0.04),
    Band("HP:0040285", "Excluded", 0.00, 0.00),
)
BY_ID = {band.id: band.midpoint for band in BANDS}
BAND_WORDS = {band.name.lower(): band.midpoint for band in BANDS}

OLD_WORDS = {
    "obligate": 1.0,
    "hallmark": 0.9,
    "common": 0.75,
    "typical": 0.5,
    "frequent": 0.33,
    "occasional": 0.075,
    "rare": 0.05,
    "very rare": 0.01,
    "variable": float("nan"),  # stated, without a number
}

_COUNT = re.compile(r"([0-9]+) *(?:/|of) *([0-9]+)")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) *%?(?: *[-–] *([0-9]+(?:\.[0-9]+)?))? *%")
_RANGE = re.compile(r"\s*\([^()]*%\)$")  # Orphanet writes it behind the word: "Frequent (79-30%)"


class Counted(float):
    """`seen` of `patients` had it: that fraction, remembering of how many it is."""

    seen: int
    patients: int

    def __new__(cls, seen: int, patients: int) -> Counted:
        counted = super().__new__(cls, seen / patients)
        counted.seen, counted.patients = seen, patients
        return counted


def band_fraction(text: str) -> float:
    """Midpoint of a band given by name, HPO id, or as Orphanet writes it: "Frequent (79-30%)".

    Raises ValueError for anything else.
    """
    name = _RANGE.sub("", text.strip())
    fraction = BY_ID.get(name, BAND_WORDS.get(name.lower()))
    if fraction is None:
        raise Refusal(f"frequency {text!r}, expected one of {[b.name for b in BANDS]}")
    return fraction


def annotated_fraction(text: str, words: Mapping[str, float] = OLD_WORDS) -> float:
    """The frequency column of an HPO annotation file as a fraction; NaN where it says nothing.

    Takes n/m or "n of m" (the answer is `Counted`), a percentage or a range of percentages (its
    middle), an HPO frequency term, or one of `words`, upper or lower case. Raises ValueError for
    anything else.
    """
    text = text.strip()
    if not text:
        return float("nan")
    fraction = BY_ID.get(text, words.get(_RANGE.sub("", text).lower()))
    if fraction is not None:
        return fraction
    if count := _COUNT.fullmatch(text):
        n, m = int(count[1]), int(count[2])
        if n <= m and m > 0:
            return Counted(n, m)
    elif percent := _PERCENT.fullmatch(text):
        low = float(percent[1])
        fraction = (low + float(percent[2] or low)) / 200
        if fraction <= 1 and low <= 100:
            return fraction
    raise Refusal(
        f"frequency {text!r}, expected n/m (n patients of m, n <= m, m > 0), a percentage, an HPO "
        f"frequency term or one of {', '.join(words)}"
    )


def pooled(fractions: Iterable[float]) -> float:
    """One fraction from all that is stated of a disease and a finding; NaN where nothing is known.

    Counts are pooled, 3 of 4 and 1 of 10 to 4 of 14: together they are one statement. The answer is
    the mean of that and of each percentage, band and word.
    """
    fractions = [fraction for fraction in fractions if fraction == fraction]
    counts = [fraction for fraction in fractions if isinstance(fraction, Counted)]
    known = [fraction for fraction in fractions if not isinstance(fraction, Counted)]
    if counts:
        known.append(sum(c.seen for c in counts) / sum(c.patients for c in counts))
    return sum(known) / len(known) if known else float("nan")
