"""What is installed here, and what a run holds."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from robustmdiff import _native
from robustmdiff.experiment.run import load_run
from robustmdiff.ops.dispatch import Op


def describe_installation() -> dict[str, Any]:
    """Versions, the native module or the reason why it is not there, and the backends of each op."""
    import robustmdiff.ops  # registers every op

    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {
        "robustmdiff": robustmdiff.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "triton", "transformers", "accelerate")},
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "no device",
        "native": _native.reason or "loaded",
        **{name: ", ".join(b.name for b in op.backends) for name, op in sorted(Op.registry.items())},
    }


def describe_run(folder: str | Path) -> dict[str, Any]:
    run = load_run(folder)
    parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    return {
        "model": type(run.model).__name__,
        "parameters": parameters,
        "data": run.source.data,
        "classes": ", ".join(run.task.classes),
        "rare": ", ".join(run.task.rare),
        "modalities": ", ".join(f"{m.name} ({m.kind})" for m in run.task.modalities),
        "findings": len(run.task.findings),
        "prediction sets": f"{1 - run.conformal.alpha:.0%} per missing pattern",
    }
