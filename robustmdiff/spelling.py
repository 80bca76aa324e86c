"""When two spellings are one name: of people, sites, classes, categories and columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from difflib import get_close_matches

WHOLE = re.compile(r"(-?[0-9]+)\.0+")
APOSTROPHES = dict.fromkeys(map(ord, "‘’ʼ′"), "'")


def canonical(name: str) -> str:
    """The spelling under which names are compared. Unicode NFKC (the ways of writing é, and full-width
    letters, are one), no invisible characters, one blank for any white space, one dash and one
    apostrophe for all of theirs, and "12" for the "12.0" of a spreadsheet. Case counts."""
    if not name.isascii():
        seen = "".join(c for c in name if unicodedata.category(c) != "Cf")
        folded = unicodedata.normalize("NFKC", seen).translate(APOSTROPHES)
        name = "".join("-" if unicodedata.category(c) == "Pd" or c == "−" else c for c in folded)
    name = " ".join(name.split())
    whole = WHOLE.fullmatch(name)
    return whole[1] if whole else name


def match(name: str, choices: Collection[str]) -> str | None:
    """The one of `choices` that is meant: the very same, else the only one that is `canonical`ly the
    same, else the only one that is so but for its case. None where none is or where several are."""
    if name in choices:
        return name
    for case in (str, str.casefold):
        alike = [choice for choice in choices if case(canonical(choice)) == case(canonical(name))]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def nearest(name: object, choices: Iterable[str]) -> str | None:
    """The one of `choices` that is closest to the name, whatever the case; None where none is close."""
    spelled = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(str(name).casefold(), spelled, n=1)
    return spelled[close[0]] if close else None


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """\" (did you mean 'age'?)", where one of `choices` is close to the name that is none of them; or ""."""
    close = nearest(name, choices)
    return "" if close is None else f" (did you mean {close!r}?)"


def unknown(what: str, name: object, choices: Collection[str]) -> str:
    """What to say of a name that is none of `choices`."""
    expected = f"expected one of {', '.join(choices)}" if choices else f"the task declares no {what}"
    return f"unknown {what} {name!r}{did_you_mean(name, choices)}, {expected}"
