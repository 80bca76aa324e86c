"""RobustMDiff: alignment, diffusion and diagnosis for patients whose records are incomplete."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustmdiff.answer import Answer
    from robustmdiff.classifier import RobustMDiffClassifier
    from robustmdiff.ops.dispatch import Explanation, explain, use_backend
    from robustmdiff.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Answer", "Explanation", "Predictor", "RobustMDiffClassifier", "explain", "use_backend"]

# Each is imported when it is asked for: whoever needs the data or the layers alone waits for nothing else.
LIES_IN = {
    "Answer": "robustmdiff.answer",
    "Explanation": "robustmdiff.ops.dispatch",
    "Predictor": "robustmdiff.predictor",
    "RobustMDiffClassifier": "robustmdiff.classifier",
    "explain": "robustmdiff.ops.dispatch",
    "use_backend": "robustmdiff.ops.dispatch",
}


def __getattr__(name: str) -> Any:
    if name not in LIES_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LIES_IN[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
