"""What may be a name of a class, a finding, a category, a field or a modality."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from torch import nn

from robustmdiff.data.spelling import canonical
from robustmdiff.refusal import Refusal

BREAKING = ("Cc", "Cs", "Zl", "Zp")  # control characters, half a surrogate pair, line separators
SYNTAX = './\\:+=,;<>"|?*'  # of columns, options, tables and file names, where modalities are named
TAKEN = nn.ModuleDict()  # the encoders lie in one, each under its modality's name


def check_name(name: str, what: str) -> None:
    """ValueError, which begins with `what`, unless it is text with something to read in it, in one line
    and without blanks around."""
    if not isinstance(name, str):
        raise Refusal(f"{what} is {name!r}, expected text")
    if not canonical(name):
        raise Refusal(f"{what} is {name!r}, expected a name that is not empty")
    if name != name.strip() or any(unicodedata.category(letter) in BREAKING for letter in name):
        raise Refusal(f"{what} is {name!r}, expected a name without blanks around it, in one line")


def check_names(names: Sequence[str], what: str) -> None:
    """ValueError unless each of `names` is a name and no two are the same one."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        check_name(name, f"{what}[{i}]")
        first = seen.setdefault(canonical(name), i)
        if first != i:
            raise Refusal(f"{what}[{i}] is {name!r}, the same name as [{first}], expected distinct names")


def check_modality_name(name: str) -> None:
    """ValueError for a name that would not do as a column, in an option, as a file and as a module."""
    check_name(name, "Modality: name")
    if set(name) & set(SYNTAX):
        raise Refusal(f"Modality: name is {name!r}, expected a name without any of {SYNTAX}")
    if hasattr(TAKEN, name):
        raise Refusal(f"Modality: name is {name!r}, which torch.nn.ModuleDict uses itself, expected another")
