"""`robustmdiff predict`: probabilities and prediction sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, Device, Draws, Patients, RunFolder, Seed, SkipBad
from robustmdiff.cli.show import left_out, show, show_predictions

if TYPE_CHECKING:
    from robustmdiff.answer import Answer
    from robustmdiff.data.bad_rows import BadRows


def predict(
    run: RunFolder,
    data: Patients = None,
    patient: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this patient; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a CSV, one row a patient and class.")
    ] = None,
    draws: Draws = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Diagnose patients: the probability of each class, its interval, and the set of classes that
    holds the right one in 9 of 10 patients.

    \b
    Example:
      robustmdiff predict runs/mine --data my_patients --out predictions.csv
    """
    from robustmdiff.data.bad_rows import BadRows

    bad = BadRows(skip_bad)
    rows = predict_run(run, data=data, ids=patient, draws=draws, seed=seed, device=device, bad=bad)
    if out is not None:
        write_predictions(rows, out)
    listed = left_out(bad)
    if as_json:
        show({"predictions": rows} | listed, as_json)
    elif out is not None:
        print(f"wrote {out}, {len(rows)} rows")
    else:
        show_predictions(rows)


def predict_run(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    ids: Sequence[str] | None = None,
    draws: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    bad: BadRows | None = None,
) -> list[dict[str, Any]]:
    """One row per patient and class: probability, whose answer it is, interval of the draws (None where none
    were made), whether the prediction set holds it, and whether the patient is unlike the training data."""
    from robustmdiff.predictor import Predictor

    predictor = Predictor.from_pretrained(folder, device)
    answers = predictor.diagnose(predictor.patients(data, ids=ids, bad=bad), draws=draws, seed=seed)
    return [row for answer in answers for row in rows_of(answer)]


def rows_of(answer: Answer) -> list[dict[str, Any]]:
    ends = {name: (round(low, 6), round(high, 6)) for name, (low, high) in answer.interval.items()}
    return [
        {
            "patient": answer.patient,
            "class": name,
            "probability": round(p, 6),
            "low": ends[name][0] if ends else None,
            "high": ends[name][1] if ends else None,
            "in_set": name in answer.prediction,
            "unlike_training": bool(answer.unlike_training),
            "missing": " ".join(answer.missing),
            "nothing_known": answer.nothing_known,
            "answer": answer.answer,
        }
        for name, p in answer.probability.items()
    ]


def write_predictions(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A CSV, whole or not at all."""
    from robustmdiff.data.tables.read import write_table

    write_table(path, list(rows[0]) if rows else ["patient", "class", "probability"], rows)
