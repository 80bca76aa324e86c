"""FLOP formulas, given to torch when it is about to count.

`torch.utils.flop_counter` imports Triton where that is installed, which takes several times as long as
all of this package. So it is not imported here: the formulas wait until somebody else imports it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

_COUNTER = "torch.utils.flop_counter"
_waiting: list[tuple[Any, Callable[..., int]]] = []


def register(packet: Any, formula: Callable[..., int]) -> None:
    """Count operator `packet` by formula(*args, out_val=..., **kwargs), over the arguments themselves."""
    if _COUNTER in sys.modules:
        sys.modules[_COUNTER].register_flop_formula(packet, get_raw=True)(formula)
    else:
        _waiting.append((packet, formula))


class _Finder(MetaPathFinder):
    """Finds torch's counter as everybody does, and hands over what has waited once it has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            for packet, formula in _waiting:
                module.register_flop_formula(packet, get_raw=True)(formula)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if _COUNTER not in sys.modules:
    sys.meta_path.insert(0, _Finder())
