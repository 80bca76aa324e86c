"""The native library, loaded once when an op first asks for it; and why it is not there, when it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent


def _load(name: str) -> str | None:
    """Load the kernels in `name` into torch; the reason if that cannot be done."""
    path = _FOLDER / name
    if not path.exists():
        return (
            f"{name} is not built (it needs a C++ compiler and an installed torch, on x86-64 Linux; then "
            "`pip install --no-build-isolation -e .`)"
        )
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path} does not load into torch {torch.__version__}: {error}"
    return None


reason: str | None = _load("_C.so")
"""None when the C++ kernels are there."""

cuda_reason: str | None = (
    _load("_C_cuda.so") if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
)
"""None when the CUDA kernels are there."""


def missing(operator: Any, device: str = "CPU") -> str | None:
    """Why `operator` cannot run on the "CPU" or on "CUDA"; None when it can."""
    name, found = ("_C.so", reason) if device == "CPU" else ("_C_cuda.so", cuda_reason)
    if found is None and not torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), device):
        return f"{name} was built before it had this op; install the package again"
    return found
