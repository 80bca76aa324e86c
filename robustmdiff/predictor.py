"""The front door: a trained run that answers questions about patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, overload

import torch
from torch import Tensor

from robustmdiff.answer import Answer, Computed, answers
from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.study import readable
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.calibration import say_if_calibrated_otherwise
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.tensors import tensors
from robustmdiff.experiment.run import Run, load_run, usable
from robustmdiff.experiment.studies import in_terms_of
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical

if TYPE_CHECKING:
    from robustmdiff.explanation.record import PatientExplanation
    from robustmdiff.next_test import NextTest

BATCH = 64  # patients at a time


class Predictor:
    """A trained run, ready to be asked.

        predictor = Predictor.from_pretrained("runs/demo")
        answer = predictor.diagnose(predictor.patients()[0])
        answer.probability["pneumonia"], answer.prediction

    An answer depends on the seed and the patient alone and, but for rounding, not on who is asked about
    beside them. A Predictor may be shared by threads, and pickled; what is the same for every patient (the
    embedded concepts) is computed with the first.

    `draws` is everywhere the number of posterior samples; unless given the run's own (`model.draws` of its
    config), for which its prediction sets were calibrated. 0 makes none: a head answers, about four times as
    fast, and nothing is said of what the missing modalities could still change.
    """

    def __init__(self, run: Run, device: torch.device | str = "cpu") -> None:
        self.run = run
        self.device = usable(device)
        run.model.to(self.device).eval()
        self._warm = Lock()
        self._concepts: tuple[list[Any], Tensor] | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> Self:
        """A folder that `robustmdiff train` or `robustmdiff demo` wrote, on a device.

        Raises DataError or PretrainedError for a folder that holds no finished run, Refusal for a device that
        cannot be used.
        """
        return cls(load_run(folder), device)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run, self.device)

    @property
    def task(self) -> Task:
        """What it was trained on: modalities with their fields, units and windows, and classes."""
        return self.run.task

    def patients(
        self,
        data: Any = None,
        root: str | Path = ".",
        *,
        ids: Sequence[str] | None = None,
        bad: BadRows | None = None,
    ) -> list[Patient]:
        """Patients in the terms of this model.

        data  a folder with its own task.json, a pandas DataFrame with columns as in patients.csv (its files
              under `root`), or None: the run's own test patients.
        ids   only these, in this order; of the run's own any that it has, whether tested or not.
        bad   notes the rows and the pictures of these patients that cannot be read, and may skip them
              (`BadRows(skip=True)`); without it pictures are read when a patient is diagnosed.

        Raises DataError for data that says other things than the model was trained on.
        """
        if data is None:
            study = self.run.study()
            return list(study.patients["test"]) if ids is None else [study.find(id) for id in ids]
        found = self._read(data, root, bad)
        if ids is None:
            return found if bad is None else readable(found, bad)
        by_id = {canonical(patient.id): patient for patient in found}
        unknown = [id for id in ids if canonical(id) not in by_id]
        if unknown:
            where = "DataFrame" if hasattr(data, "columns") else data
            some = ", ".join(patient.id for patient in found[:5])
            raise DataError(f"{where}: has no patient {unknown[0]!r}, expected one of {some}, ...")
        asked = [by_id[canonical(id)] for id in ids]
        return asked if bad is None else readable(asked, bad)

    def _read(self, data: Any, root: str | Path, bad: BadRows | None) -> list[Patient]:
        if hasattr(data, "columns"):
            from robustmdiff.data.tables.frames import read_frame

            return read_frame(data, self.task, root, bad=bad)
        from robustmdiff.data.sources.folder import folder_task, load_folder
        from robustmdiff.data.terms import terms

        terms(self.task, folder_task(data), str(data))  # refuses before a picture is decoded
        patients, task = load_folder(data, bad=bad)
        return list(in_terms_of(self.task, patients, task, str(data)))

    def stream(self, folder: str | Path, *, bad: BadRows | None = None) -> Iterator[Patient]:
        """The patients of a folder as `patients` gives them, one by one: of a table of any length only the
        ids stay in memory. Rows that cannot be read are told at the end (`bad` as there); pictures are read
        when a patient is diagnosed."""
        from robustmdiff.data.sources.folder import folder_task, stream_folder

        return in_terms_of(self.task, stream_folder(folder, bad=bad), folder_task(folder), str(folder))

    @overload
    def diagnose(
        self, patients: Patient, root: str | Path = ".", *, draws: int | None = None, seed: int = 0
    ) -> Answer: ...
    @overload
    def diagnose(
        self, patients: Any, root: str | Path = ".", *, draws: int | None = None, seed: int = 0
    ) -> list[Answer]: ...
    def diagnose(
        self, patients: Any, root: str | Path = ".", *, draws: int | None = None, seed: int = 0
    ) -> Answer | list[Answer]:
        """One patient, or all of several: a sequence of Patients, or what `patients` takes (a DataFrame with
        its files under `root`). Raises DataError for a patient who is not what the task declares; warns of a
        number of draws that the prediction sets were not calibrated for."""
        say_if_calibrated_otherwise(self.run.model, draws)
        if isinstance(patients, Patient):
            return self._diagnose([patients], draws, seed)[0]
        if not (isinstance(patients, Sequence) and all(isinstance(p, Patient) for p in patients)):
            patients = self.patients(patients, root)
        return [
            answer
            for i in range(0, len(patients), BATCH)
            for answer in self._diagnose(patients[i : i + BATCH], draws, seed)
        ]

    @torch.no_grad()
    def _diagnose(self, patients: Sequence[Patient], draws: int | None, seed: int) -> list[Answer]:
        run, task = self.run, self.task
        draws = run.model.config.draws if draws is None else draws
        encoded = run.model.observed(self._encode(patients))
        diagnosis = run.model.diagnose(encoded, draws=draws, seed=seed)
        presence = encoded.m.cpu()
        p = diagnosis.probability.cpu()
        unlike = None
        if run.abstention is not None and encoded.x is not None:
            unlike = run.abstention.flag(encoded.x.cpu(), presence)
        interval, findings = diagnosis.interval(), diagnosis.findings
        return answers(
            task,
            [patient.id for patient in patients],
            presence.numpy(),
            Computed(
                probability=p.numpy(),
                in_set=run.conformal.sets(p, presence),
                unlike_training=unlike,
                findings=None if findings is None else findings.cpu().numpy(),
                interval=None if interval is None else (interval[0].numpy(), interval[1].numpy()),
            ),
            diagnosis.answer,
        )

    @torch.no_grad()
    def _encode(self, patients: Sequence[Patient]) -> Encoded:
        model, batch = self.run.model, tensors(self.run.collator(patients), self.device)
        if isinstance(model, RobustMDiff):
            return model.encode(batch, self._embedded(model))
        return model.encode(batch)

    @torch.no_grad()
    def _embedded(self, model: RobustMDiff) -> Tensor:
        """The concepts as the weights of the run's model embed them now: once, and again when one of these
        weights has changed or moved."""
        weights = [(w.data_ptr(), w._version) for w in model.weights_of_concepts()]
        with self._warm:
            if self._concepts is None or self._concepts[0] != weights:
                self._concepts = weights, model.embed_concepts()
            return self._concepts[1]

    def explain(
        self, patient: Patient, *, target: str | None = None, draws: int | None = None, seed: int = 0
    ) -> PatientExplanation:
        """Why: what each modality, region, word and value did for the class `target` (the likeliest unless
        given), concepts consulted, the tests worth ordering. `explanation.patient_page` makes a page of it.
        Raises Refusal for a model that is a baseline."""
        from robustmdiff.explanation.explain import explain_patient
        from robustmdiff.training.notes import read_notes

        run, model = self.run, self._ours("explain")
        say_if_calibrated_otherwise(model, draws)
        return explain_patient(
            model,
            patient,
            run.collator,
            conformal=run.conformal,
            abstention=run.abstention,
            target=target,
            draws=draws,
            seed=seed,
            checkpoint=run.folder.name,
            notes=read_notes(run.folder),
            K=self._embedded(model),
        )

    @torch.no_grad()
    def next_test(self, patient: Patient, *, draws: int | None = None, seed: int = 0) -> tuple[NextTest, ...]:
        """The modalities that the patient lacks, the one that would move the diagnosis most for its cost
        first. Raises Refusal for a model that is a baseline, or forecasts nothing."""
        from robustmdiff.explanation.acquisition import rank_next_tests

        model = self._ours("next_test")
        return rank_next_tests(model, self._encode([patient]), draws=draws or model.config.draws, seed=seed)

    def _ours(self, what: str) -> RobustMDiff:
        model = self.run.model
        if not isinstance(model, RobustMDiff):
            kind = type(model).__name__
            raise Refusal(f"{what}: the model of {self.run.folder} is a {kind}, expected RobustMDiff")
        return model
