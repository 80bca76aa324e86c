"""A module per op, of its name: `cases()` are the situations in which each of its backends is tested."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from robustmdiff.testing.case import Case

OPS = tuple(sorted(module.name for module in iter_modules(__path__)))


def all_cases() -> list[Case]:
    """Those of every op that has a module here."""
    return [case for op in OPS for case in import_module(f"{__name__}.{op}").cases()]
