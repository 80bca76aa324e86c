"""`robustmdiff benchmark`: every form of a run side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustmdiff.cli.arguments import AsJson, RunFolder
from robustmdiff.cli.show import show


def benchmark(
    run: RunFolder,
    exported: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="What `robustmdiff export` wrote of it.")
    ],
    as_json: AsJson = False,
) -> None:
    """The run in torch and what was exported of it: size, AUROC and coverage on the run's test patients, the
    largest difference of a probability, and milliseconds a patient, one and 64 at a time.

    \b
    Example:
      robustmdiff benchmark runs/mine exported exported-fp16
    """
    from robustmdiff.export.forms import side_by_side
    from robustmdiff.predictor import Predictor

    predictor = Predictor.from_pretrained(run)
    forms = [form._asdict() for form in side_by_side(predictor, exported, predictor.patients())]
    rows = [
        form | {"difference": None if form["difference"] is None else f"{form['difference']:.0e}"}
        for form in forms
    ]
    reasons = {row["form"]: reason for row in rows if (reason := row.pop("reason"))}
    show({"forms": forms}, as_json, {f"{run}, {len(predictor.patients())} test patients": rows})
    for form, reason in reasons.items() if not as_json else ():
        print(f"{form}: {reason}")
