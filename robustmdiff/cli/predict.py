"""What `robustmdiff predict` and `robustmdiff explain` ask, and what they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustmdiff.data.files import file_name
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.spelling import canonical
from robustmdiff.data.tables.read import write_table
from robustmdiff.predictor import Answer, Predictor
from robustmdiff.whole import write_whole


def predict_run(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    ids: Sequence[str] | None = None,
    draws: int = 16,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per patient and class: probability, interval of the draws, whether the prediction set
    holds it, and whether the patient is unlike the training data."""
    predictor = Predictor.from_pretrained(folder)
    answers = predictor.diagnose(patients_of(predictor, data, ids), draws=draws, seed=seed)
    return [row for answer in answers for row in rows_of(answer)]


def rows_of(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "patient": answer.patient,
            "class": name,
            "probability": round(p, 6),
            "low": round(answer.interval[name][0], 6),
            "high": round(answer.interval[name][1], 6),
            "in_set": name in answer.prediction,
            "unlike_training": bool(answer.unlike_training),
            "missing": " ".join(answer.missing),
        }
        for name, p in answer.probability.items()
    ]


def write_predictions(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A CSV, whole or not at all."""
    write_table(path, list(rows[0]) if rows else ["patient", "class", "probability"], rows)


def explain_run(
    folder: str | Path,
    *,
    id: str | None = None,
    data: str | Path | None = None,
    hide: Sequence[str] = (),
    out: Path | None = None,
    draws: int = 64,
    seed: int = 0,
) -> tuple[Any, Path]:
    """The explanation of one patient and the page that it was written to."""
    from robustmdiff.explanation.patient_page import render_patient_page

    predictor = Predictor.from_pretrained(folder)
    patient = patients_of(predictor, data, [id] if id is not None else None)[0]
    for name in hide:
        if name not in predictor.task.modality_names:
            raise DataError(f"hide is {name!r}, expected one of {', '.join(predictor.task.modality_names)}")
    patient = replace(patient, modalities={n: v for n, v in patient.modalities.items() if n not in hide})
    explanation = predictor.explain(patient, draws=draws, seed=seed)
    page = out or Path(folder) / "patients" / f"{file_name(patient.id)}.html"
    write_whole(page, render_patient_page(explanation).encode())
    return explanation, page


def patients_of(
    predictor: Predictor, data: str | Path | None, ids: Sequence[str] | None
) -> Sequence[Patient]:
    """All of `Predictor.patients`, or those with these ids; of the run's own study any that it has."""
    if ids is None:
        return predictor.patients(data)
    if data is None:
        study = predictor.run.study()
        return [study.find(i) for i in ids]
    of = {canonical(patient.id): patient for patient in predictor.patients(data)}
    unknown = [i for i in ids if canonical(i) not in of]
    if unknown:
        raise DataError(
            f"{data}: has no patient {unknown[0]!r}, expected one of {', '.join(list(of)[:5])}, ..."
        )
    return [of[canonical(i)] for i in ids]
