"""Diagnoses of patients, old and new, by a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustmdiff.data.files import file_name, write_whole
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.spelling import canonical
from robustmdiff.data.tables import write_table
from robustmdiff.data.terms import terms
from robustmdiff.experiment.run import Run, load_run
from robustmdiff.experiment.studies import in_terms_of

INTERVAL = (0.05, 0.95)  # of the draws


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
    run = load_run(folder)
    patients = patients_of(run, data, ids)
    rows = []
    for i in range(0, len(patients), 64):
        batch = run.collator(patients[i : i + 64])
        with torch.no_grad():
            encoded = run.model.encode(batch)
            diagnosis = run.model.diagnose(encoded, draws=draws, seed=seed)
            sets = run.conformal.sets(diagnosis.probability, batch.presence)
            unlike = [False] * len(batch)
            if run.abstention is not None:
                unlike = run.abstention.flag(run.model.observe(encoded), batch.presence).tolist()
        low, high = diagnosis.probability, diagnosis.probability
        if diagnosis.draws is not None:
            low, high = torch.quantile(diagnosis.draws, torch.tensor(INTERVAL), dim=0)
        for b, patient in enumerate(patients[i : i + 64]):
            missing = [n for n in run.task.modality_names if not patient.has(n)]
            for c, name in enumerate(run.task.classes):
                rows.append(
                    {
                        "patient": patient.id,
                        "class": name,
                        "probability": round(float(diagnosis.probability[b, c]), 6),
                        "low": round(float(low[b, c]), 6),
                        "high": round(float(high[b, c]), 6),
                        "in_set": bool(sets[b, c]),
                        "unlike_training": unlike[b],
                        "missing": " ".join(missing),
                    }
                )
    return rows


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
    from robustmdiff.evaluation.patient_page import explain_patient, render_patient_page

    run = load_run(folder)
    patient = patients_of(run, data, [id] if id is not None else None)[0]
    for name in hide:
        if name not in run.task.modality_names:
            raise DataError(f"hide is {name!r}, expected one of {', '.join(run.task.modality_names)}")
    patient = replace(patient, modalities={n: v for n, v in patient.modalities.items() if n not in hide})
    explanation = explain_patient(
        run.model,
        patient,
        run.collator,
        conformal=run.conformal,
        abstention=run.abstention,
        draws=draws,
        seed=seed,
        checkpoint=run.folder.name,
    )
    page = out or run.folder / "patients" / f"{file_name(patient.id)}.html"
    write_whole(page, render_patient_page(explanation).encode())
    return explanation, page


def patients_of(run: Run, data: str | Path | None, ids: Sequence[str] | None) -> list[Patient]:
    """Patients of a folder, in the terms of the run's task, or of the run's own study (its test patients
    unless ids are given)."""
    if data is not None:
        from robustmdiff.data.folder import folder_task, load_folder

        terms(run.task, folder_task(data), str(data))  # refuses before a picture is decoded
        patients, task = load_folder(data)
        patients = in_terms_of(run.task, patients, task, str(data))
        if ids is None:
            return patients
        of = {canonical(patient.id): patient for patient in patients}
        unknown = [i for i in ids if canonical(i) not in of]
        if unknown:
            raise DataError(
                f"{data}: has no patient {unknown[0]!r}, expected one of {', '.join(list(of)[:5])}, ..."
            )
        return [of[canonical(i)] for i in ids]
    study = run.study()
    return [study.find(i) for i in ids] if ids is not None else list(study.patients["test"])
