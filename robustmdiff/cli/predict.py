"""`robustmdiff predict`: probabilities and prediction sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, Device, Draws, Patients, RunFolder, Seed, SkipBad
from robustmdiff.cli.show import left_out, show, show_predictions
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.data.bad_rows import BadRows


def predict(
    run: RunFolder,
    data: Patients = None,
    patient: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this patient; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a table, one row a patient and class: .parquet, else CSV."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Of a .parquet: processes that share the patients, of a thread each.")
    ] = 1,
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="Of a .parquet: processes, or ray (a cluster's workers).")
    ] = "processes",
    draws: Draws = None,
    seed: Seed = 0,
    device: Device = "cpu",
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Diagnose patients: the probability of each class, its interval, and the set of classes that
    holds the right one in 9 of 10 patients.

    A .parquet is written for cohorts: patients are read one by one, finished batches are kept in
    FILE.parts, and the same command goes on after a kill.

    \b
    Examples:
      robustmdiff predict runs/mine --data my_patients --out predictions.csv
      robustmdiff predict runs/mine --data cohort --out all.parquet --workers 8
    """
    from robustmdiff.data.bad_rows import BadRows

    bad = BadRows(skip_bad)
    asked: dict[str, Any] = {"data": data, "ids": patient, "draws": draws, "seed": seed, "bad": bad}
    if out is not None and out.suffix.lower() == ".parquet":
        from robustmdiff.prediction.to_parquet import predict_to_parquet
        from robustmdiff.predictor import Predictor

        predictor = Predictor.from_pretrained(run, device)
        written = predict_to_parquet(predictor, out, workers=workers, engine=engine, **asked)
        said = {"out": str(out), "rows": written} | left_out(bad)
        if as_json:
            show(said, as_json)
        else:
            print(f"wrote {out}, {written} rows")
        return
    for name, value, default in (("workers", workers, 1), ("engine", engine, "processes")):
        if value != default:
            raise Refusal(f"--{name} is {value}, expected it with --out FILE.parquet alone")
    rows = predict_run(run, device=device, **asked)
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
    from robustmdiff.prediction.answering import rows_of
    from robustmdiff.predictor import Predictor

    predictor = Predictor.from_pretrained(folder, device)
    answers = predictor.diagnose(predictor.patients(data, ids=ids, bad=bad), draws=draws, seed=seed)
    return [row for answer in answers for row in rows_of(answer)]


def write_predictions(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A CSV, whole or not at all."""
    from robustmdiff.data.tables.read import write_table

    write_table(path, list(rows[0]) if rows else ["patient", "class", "probability"], rows)
