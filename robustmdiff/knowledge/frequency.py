"""How often a disease shows a finding: from the words of HPO and Orphanet to numbers.

Bands are those of the HPO's frequency terms (Köhler et al. 2019, Nucleic Acids Research 47,
table 2), which Orphanet shares; each stands for its midpoint. Files of before 2018 use older
words with one value each (HPO annotation guide of that time, table 2).
"""

from __future__ import annotations

import re
from typing import NamedTuple


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
BY_ID = {band.id: band for band in BANDS}
BY_NAME = {band.name.lower(): band for band in BANDS}

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

_COUNT = re.compile(r"(\d+) ?(?:/|of) ?(\d+)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%?(?:-(\d+(?:\.\d+)?))? ?%")


def band_fraction(text: str) -> float:
    """Midpoint of a band given by name, HPO id, or as Orphanet writes it: "Frequent (79-30%)".

    Raises ValueError for anything else.
    """
    name = text.partition("(")[0].strip()
    band = BY_ID.get(name) or BY_NAME.get(name.lower())
    if band is None:
        raise ValueError(f"frequency {text!r}, expected one of {[b.name for b in BANDS]}")
    return band.midpoint


def annotated_fraction(text: str) -> float:
    """The frequency column of an HPO annotation file as a fraction; NaN where it says nothing.

    Takes n/m or "n of m", a percentage or a range of percentages (its middle), an HPO frequency
    term, or an old word, upper or lower case. Raises ValueError for anything else.
    """
    text = text.strip()
    if not text:
        return float("nan")
    if text in BY_ID:
        return BY_ID[text].midpoint
    if text.lower() in OLD_WORDS:
        return OLD_WORDS[text.lower()]
    if count := _COUNT.fullmatch(text):
        n, m = int(count[1]), int(count[2])
        fraction = n / m if m else -1.0
    elif percent := _PERCENT.fullmatch(text):
        low = float(percent[1])
        fraction = (low + float(percent[2] or low)) / 200
    else:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        words = ", ".join(OLD_WORDS)
        raise ValueError(
            f"frequency {text!r}, expected n/m, a percentage, an HPO frequency term or one of {words}"
        )
    return fraction
