"""`robustmdiff explain`: one page on one patient."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustmdiff.cli.arguments import AsJson, Device, Draws, Patients, RunFolder, Seed
from robustmdiff.cli.show import NOTHING_KNOWN
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.explanation.record import PatientExplanation


def explain(
    run: RunFolder,
    patient: Annotated[
        str | None, typer.Option(metavar="ID", help="The patient; else the first test patient.")
    ] = None,
    data: Patients = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY", help="Pretend that it is missing; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The HTML page; else RUN/patients/ID.html.")
    ] = None,
    draws: Draws = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """One page on one patient: what is likely, why, and which test to order next.

    \b
    Example:
      robustmdiff explain runs/mine --data my_patients --patient p1 --hide notes
    """
    explanation, page = explain_run(
        run, id=patient, data=data, hide=hide or [], out=out, draws=draws, seed=seed, device=device
    )
    if not any(modality.present for modality in explanation.modalities):
        print(f"{explanation.id}: {NOTHING_KNOWN}", file=sys.stderr)
    if as_json:
        print(json.dumps({**explanation.to_json(), "page": str(page)}))
    else:
        print(f"wrote {page}")


def explain_run(
    folder: str | Path,
    *,
    id: str | None = None,
    data: str | Path | None = None,
    hide: Sequence[str] = (),
    out: Path | None = None,
    draws: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[PatientExplanation, Path]:
    """The explanation of one patient and the page that it was written to."""
    from robustmdiff.data.files import file_name
    from robustmdiff.explanation.patient_page import render_patient_page
    from robustmdiff.predictor import Predictor
    from robustmdiff.whole import write_whole

    predictor = Predictor.from_pretrained(folder, device)
    for name in hide:
        if name not in predictor.task.modality_names:
            raise Refusal(f"hide is {name!r}, expected one of {', '.join(predictor.task.modality_names)}")
    patient = predictor.patients(data, ids=[id] if id is not None else None)[0]
    patient = replace(patient, modalities={n: v for n, v in patient.modalities.items() if n not in hide})
    explanation = predictor.explain(patient, draws=draws, seed=seed)
    page = out or Path(folder) / "patients" / f"{file_name(patient.id)}.html"
    write_whole(page, render_patient_page(explanation).encode())
    return explanation, page
