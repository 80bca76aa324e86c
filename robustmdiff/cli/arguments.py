"""Arguments that several commands share, under one name and with one help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `robustmdiff train` wrote.")]
Patients = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="Patients of yours (docs/data.md); else the run's test patients."
    ),
]
Draws = Annotated[
    int | None,
    typer.Option(
        min=0, show_default=False, help="Posterior samples per diagnosis, 0: none; else the run's own number."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out rows and files that cannot be read, and list them.")
]
