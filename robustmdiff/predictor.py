"""The front door: a trained run that answers questions about patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import torch

from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.experiment.run import Run, load_run
from robustmdiff.experiment.studies import in_terms_of

if TYPE_CHECKING:
    from robustmdiff.explanation.acquisition import NextTest
    from robustmdiff.explanation.record import PatientExplanation

INTERVAL = (0.05, 0.95)  # of the draws
BATCH = 64  # patients at a time


@dataclass(frozen=True)
class Answer:
    """What is to be said of one patient.

    probability   of each class, the mean over the draws
    interval      5 % and 95 % of the draws: what the missing modalities could still change
    prediction    the classes that cannot be ruled out, likeliest first: the right one is among them in 9 of
                  10 patients
    findings      the probability of each finding, where the model knows findings
    unlike_training  whether the patient is unlike those that the model was trained on; None where it was
                  not asked to know
    missing       the modalities that the patient lacks
    """

    patient: str
    probability: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    prediction: tuple[str, ...]
    findings: Mapping[str, float]
    unlike_training: bool | None
    missing: tuple[str, ...]


class Predictor:
    """A trained run, ready to be asked.

        predictor = Predictor.from_pretrained("runs/demo")
        answer = predictor.diagnose(predictor.patients()[0])
        answer.probability["pneumonia"], answer.prediction

    An answer depends on the seed and the patient alone and, but for rounding, not on who is asked about
    beside them. A Predictor may be shared by threads, and pickled.
    """

    def __init__(self, run: Run, device: torch.device | str | None = None) -> None:
        self.run = run
        self.device = torch.device(device or "cpu")
        run.model.to(self.device).eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> Self:
        """A folder that `robustmdiff train` or `robustmdiff demo` wrote, on a device (the CPU, unless given).
        Raises DataError or PretrainedError for a folder that holds no finished run."""
        return cls(load_run(folder), device)

    @property
    def task(self) -> Task:
        """What it was trained on: modalities with their fields, units and windows, and classes."""
        return self.run.task

    def patients(self, data: Any = None, root: str | Path = ".") -> list[Patient]:
        """Patients in the terms of this model.

        data  a folder with its own task.json, a pandas DataFrame with columns as in patients.csv (its files
              under `root`), or None: the run's own test patients.

        Raises DataError for data that says other things than the model was trained on.
        """
        if data is None:
            return list(self.run.study().patients["test"])
        if hasattr(data, "columns"):
            from robustmdiff.data.tables.frames import read_frame

            return read_frame(data, self.task, root)
        from robustmdiff.data.sources.folder import folder_task, load_folder
        from robustmdiff.data.terms import terms

        terms(self.task, folder_task(data), str(data))  # refuses before a picture is decoded
        patients, task = load_folder(data)
        return in_terms_of(self.task, patients, task, str(data))

    @overload
    def diagnose(self, patients: Patient, *, draws: int = 16, seed: int = 0) -> Answer: ...
    @overload
    def diagnose(self, patients: Any, *, draws: int = 16, seed: int = 0) -> list[Answer]: ...
    def diagnose(self, patients: Any, *, draws: int = 16, seed: int = 0) -> Answer | list[Answer]:
        """One patient, or all of several: a sequence of Patients, or what `patients` takes."""
        if isinstance(patients, Patient):
            return self._diagnose([patients], draws, seed)[0]
        if not (isinstance(patients, Sequence) and all(isinstance(p, Patient) for p in patients)):
            patients = self.patients(patients)
        return [
            answer
            for i in range(0, len(patients), BATCH)
            for answer in self._diagnose(patients[i : i + BATCH], draws, seed)
        ]

    @torch.no_grad()
    def _diagnose(self, patients: Sequence[Patient], draws: int, seed: int) -> list[Answer]:
        run, task = self.run, self.task
        batch = run.collator(patients)
        encoded = run.model.encode(batch.to(self.device))
        diagnosis = run.model.diagnose(encoded, draws=draws, seed=seed)
        p = diagnosis.probability.cpu()
        sets = run.conformal.sets(p, batch.presence)
        unlike: list[bool | None] = [None] * len(patients)
        if run.abstention is not None:
            unlike = run.abstention.flag(run.model.observe(encoded), batch.presence).tolist()
        low = high = p
        if diagnosis.draws is not None:
            low, high = torch.quantile(diagnosis.draws.cpu(), torch.tensor(INTERVAL), dim=0)
        findings = diagnosis.findings
        answers = []
        for b, patient in enumerate(patients):
            by_class = dict(zip(task.classes, p[b].tolist(), strict=True))
            kept = [name for name, held in zip(task.classes, sets[b].tolist(), strict=True) if held]
            ends = zip(low[b].tolist(), high[b].tolist(), strict=True)
            known = [] if findings is None else findings[b].tolist()
            answers.append(
                Answer(
                    patient=patient.id,
                    probability=by_class,
                    interval=dict(zip(task.classes, ends, strict=True)),
                    prediction=tuple(sorted(kept, key=lambda name: -by_class[name])),
                    findings=dict(zip(task.findings, known, strict=False)),
                    unlike_training=unlike[b],
                    missing=tuple(name for name in task.modality_names if not patient.has(name)),
                )
            )
        return answers

    def explain(
        self, patient: Patient, *, target: str | None = None, draws: int = 64, seed: int = 0
    ) -> PatientExplanation:
        """Why: what each modality, region, word and value did for the class `target` (the likeliest unless
        given), concepts consulted, the tests worth ordering. `evaluation.patient_page` makes a page of it.
        Raises TypeError for a model that is a baseline."""
        from robustmdiff.explanation.explain import explain_patient

        run = self.run
        return explain_patient(
            run.model,
            patient,
            run.collator,
            conformal=run.conformal,
            abstention=run.abstention,
            target=target,
            draws=draws,
            seed=seed,
            checkpoint=run.folder.name,
        )

    @torch.no_grad()
    def next_test(self, patient: Patient, *, draws: int = 64, seed: int = 0) -> tuple[NextTest, ...]:
        """The modalities that the patient lacks, the one that would move the diagnosis most for its cost
        first."""
        from robustmdiff.explanation.acquisition import rank_next_tests

        encoded = self.run.model.encode(self.run.collator([patient]).to(self.device))
        return rank_next_tests(self.run.model, encoded, draws=draws, seed=seed)
