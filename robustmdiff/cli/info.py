"""`robustmdiff info`: what is installed here, and what a run holds."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson
from robustmdiff.cli.show import show
from robustmdiff.models import MODELS


def info(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run to describe; else the installation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What is installed and which backends can run here, or what a run holds.

    \b
    Example:
      robustmdiff info runs/mine
    """
    show(describe_run(run) if run else describe_installation(), as_json)


def describe_installation() -> dict[str, Any]:
    """Versions, the native module or the reason why it is not there, the backends of each op, the models."""
    import importlib.metadata

    import torch

    import robustmdiff.ops  # registers every op
    from robustmdiff import _native
    from robustmdiff.ops.dispatch import Op

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
        "native": _native.reason or f"loaded, {_instruction_set()}",
        **{name: ", ".join(b.name for b in op.backends) for name, op in sorted(Op.registry.items())},
        **{f"model {name}": kind.about for name, kind in MODELS.items()},
    }


def _instruction_set() -> str:
    """What the C++ kernels compute with; RMD_CPU_ISA may ask for less than the processor has."""
    from robustmdiff import _host

    return _host.cpu_isa()


def describe_run(folder: str | Path) -> dict[str, Any]:
    from robustmdiff.experiment.run import load_run

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
        "prediction sets": f"{1 - run.conformal.alpha:.0%} {run.conformal.kept_for}",
    }
