"""What only the built-in cohort can be asked: whether what was generated shows and states the findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.cohort import Cohort
from robustmdiff.data.cohort.mentions import findings_of
from robustmdiff.data.cohort.table import FINDINGS, MODALITIES
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.evaluation.generated.judge import Judge, agreement, shared_findings, train_judge
from robustmdiff.evaluation.statistics import resamples
from robustmdiff.experiment.generated.rows import REPLICATES, Row
from robustmdiff.generation.medm2g import MedM2G
from robustmdiff.generation.observed import images_of
from robustmdiff.ranking import Bools
from robustmdiff.training.checkpoint import LAST


class Judged:
    """An image that the report is compared with, and a judge of the findings that it shows.

    train, test  cohorts, of whom the readings of each modality are known
    name         of the image: "xray" or "ct"
    """

    def __init__(self, model: MedM2G, train: Cohort, test: Cohort, name: str, folder: Path) -> None:
        self.model, self.train, self.test, self.name, self.folder = model, train, test, name, folder
        self.patients = list(test.patients)
        self.people = [patient.person for patient in self.patients]
        self.weight = resamples(self.people, REPLICATES)
        self.shared = shared_findings(test.table, name, "text")
        self.asked = self.readings(test, "text")
        self.on_training = self.readings(train, "text")

    @cached_property
    def judge(self) -> Judge:
        """Trained on the readings that the images show."""
        m = MODALITIES.index(self.name)
        places = np.flatnonzero(self.train.table.visible[m])
        shown = (self.train.drawn.readings[:, m][:, places] == 1).astype(np.float32)
        names = [FINDINGS[f] for f in places]
        place = self.folder / "judges" / self.name
        return train_judge(
            self.on_trained, torch.from_numpy(shown), names, place, resume=(place / LAST).exists()
        )

    @cached_property
    def on_trained(self) -> Tensor:
        """The images of the training patients."""
        return images_of(list(self.train.patients), self.model.task.modality(self.name))

    @cached_property
    def real(self) -> Tensor:
        return images_of(self.patients, self.model.task.modality(self.name))

    def generated(self, patients: Sequence[Patient], guidance: float = 1.0) -> Tensor:
        """Of each patient one image."""
        return self.pixels(
            [one.made[self.name][0] for one in self.model.generate(patients, [self.name], guidance=guidance)]
        )

    def pixels(self, images: Sequence[Observation]) -> Tensor:
        patients = [Patient(str(i), {self.name: image}) for i, image in enumerate(images)]
        return images_of(patients, self.model.task.modality(self.name))

    def readings(self, cohort: Cohort, modality: str) -> Bools:
        """bool [n, findings], of those that image and report share."""
        places = [FINDINGS.index(name) for name in self.shared]
        return cohort.drawn.readings[:, MODALITIES.index(modality)][:, places] == 1

    def stated(self, texts: Sequence[str]) -> Bools:
        """bool [n, findings]: those shared, which each text states."""
        places = [FINDINGS.index(name) for name in self.shared]
        return np.stack([findings_of(text)[places] == 1 for text in texts])

    def agreement(self, task: str, method: str, images: Tensor, asked: Bools) -> Row:
        found = agreement(self.judge, images, asked, self.shared, self.weight)
        return Row(task, method, "AUROC of findings", found.auroc, len(images))


def having_only(patients: Sequence[Patient], name: str) -> list[Patient]:
    return [replace(patient, modalities={name: patient.modalities.get(name)}) for patient in patients]
