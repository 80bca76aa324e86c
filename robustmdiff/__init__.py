"""RobustMDiff: alignment, diffusion and diagnosis for patients whose records are incomplete."""

from importlib import import_module
from typing import Any

from robustmdiff.ops.dispatch import Explanation, explain, use_backend

__version__ = "0.1.0"
__all__ = ["Answer", "Explanation", "Predictor", "explain", "use_backend"]


def __getattr__(name: str) -> Any:
    """The front door is imported when it is asked for: the layers alone need neither it nor what it needs."""
    if name not in ("Answer", "Predictor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("robustmdiff.predictor"), name)
