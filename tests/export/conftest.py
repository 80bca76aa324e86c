"""A small run, and what is exported of it, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from robustmdiff import Predictor
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.splits import save_split
from robustmdiff.diagnosis.calibration import calibrate
from robustmdiff.diagnosis.latents import fit_second_stage
from robustmdiff.experiment.run import SPLIT, Run
from robustmdiff.experiment.source import Source
from robustmdiff.export.export import export_run
from robustmdiff.export.parity import compare
from robustmdiff.forecast import fitting
from robustmdiff.runtime import Artefact
from tests.small_study import make_study, small_study  # noqa: F401

ROUNDING = 1e-5  # float32 through a few layers; `compare` measures about 2e-7
KEPT = ("ct", "text", "structured")  # one of each kind: tracing takes as long as there are layers


@dataclass
class Exported:
    predictor: Predictor
    folder: Path
    artefact: Artefact
    patients: list[Patient]


def says_what_the_run_says(exported: Exported, artefact: Artefact) -> None:
    """An engine, under every subset of what the patients have, together and alone."""
    parity = compare(exported.predictor, artefact, exported.patients)
    assert parity.largest < ROUNDING
    assert parity.sets == 0
    for patient in exported.patients[:3]:
        expected = exported.predictor.diagnose(patient).probability
        assert artefact.diagnose(patient).probability == pytest.approx(expected, abs=ROUNDING)


def small_run(folder: Path, *, second_stage: str | None = "flow", **options) -> tuple[Run, list[Patient]]:
    """A run as `train_run` makes one, of a model that has hardly learned anything."""
    study = small_study(missingness="mcar", rate=0.3, cell_rate=0.2, **options).of(KEPT)
    model, patients = study.model(denoiser=False), study.patients
    if second_stage is not None:
        with pytest.MonkeyPatch.context() as patch:
            fit = fitting.fit
            for module in ("gaussian", "flow", "head"):
                patch.setattr(
                    f"robustmdiff.forecast.{module}.fit", lambda *a, **k: fit(*a, **{**k, "steps": 20})
                )
            how = study.collator, second_stage, 0, folder / "model"
            fit_second_stage(model, patients[:10], patients[10:], *how)
        model.answer = "draws"
    collator = Collator(study.task, study.tokenizer, study.config.max_tokens)
    sets, abstention = calibrate(model, patients, patients, collator)
    ids = [patient.id for patient in patients]
    save_split(folder / SPLIT, {"train": ids[:10], "calibration": ids[10:], "test": []})
    return Run(folder, Source("cohort"), model, collator, sets, abstention), patients


def exported(folder: Path, *, precision: str = "fp32", sampler: str | None = None, **options) -> Exported:
    run, patients = small_run(folder, **options)
    out = export_run(run, folder / "exported", precision=precision, sampler=sampler)
    return Exported(Predictor(run), out, Artefact.load(out, threads=1), patients)


@pytest.fixture(scope="session")
def with_draws(tmp_path_factory) -> Exported:
    return exported(tmp_path_factory.mktemp("exported"))
