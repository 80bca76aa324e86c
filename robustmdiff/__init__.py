"""RobustMDiff: alignment, diffusion and diagnosis for patients whose records are incomplete."""

from robustmdiff.ops.dispatch import Explanation, explain, use_backend

__version__ = "0.1.0"
__all__ = ["Explanation", "explain", "use_backend"]
