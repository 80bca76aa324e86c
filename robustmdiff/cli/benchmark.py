"""`robustmdiff benchmark`: every form of a run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, RunFolder
from robustmdiff.cli.show import show


def benchmark(
    run: RunFolder,
    exported: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="What `robustmdiff export` wrote of it.")
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
    show({"forms": forms}, as_json, {f"{run}, {len(predictor.patients())} test patients": _rows(forms)})
    for form in forms if not as_json else ():
        if form["reason"]:  # which names the file
            print(form["reason"])


def _rows(forms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For 80 columns."""
    rows = []
    for form in forms:
        row = {name: x for name, x in form.items() if name not in ("precision", "reason")}
        row["form"] += f" {form['precision']}"
        if row["difference"] is not None:
            row["difference"] = f"{row['difference']:.0e}"
        rows.append(row)
    return rows
