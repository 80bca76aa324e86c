"""What came of one patient, whichever format it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from robustmdiff.data.patient import DataError, Observation, Patient
from robustmdiff.data.task import Task

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class Received:
    """observed  modality to observation, in the task's terms
    identifiers  that the source has for the patient (DICOM's PatientID, FHIR's identifiers)
    subject   a FHIR Reference to the patient
    evidence  of each DICOM instance that was read, whose and which it is (`dicom_images.evidence_of`)
    notes     a sentence for whatever came and was not used, or used as less than it says
    """

    observed: Mapping[str, Observation]
    identifiers: frozenset[str]
    subject: Mapping[str, Any]
    evidence: tuple[Dataset, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def studies(self) -> tuple[str, ...]:
        """The Study Instance UIDs of the evidence, each once."""
        return tuple(dict.fromkeys(str(image.StudyInstanceUID) for image in self.evidence))

    def patient(self, task: Task, source: str) -> Patient:
        """The patient whom the model is asked about. The id is made of the identifiers and tells nobody who
        it is: the draws of one patient are the same whenever they are asked for, and a message names
        no one."""
        id = sha256("\n".join(sorted(self.identifiers)).encode()).hexdigest()[:16]
        observed = {name: self.observed.get(name) for name in task.modality_names}
        return Patient(id=id, modalities=observed, source=source)


def joined(images: Received, record: Received) -> Received:
    """The DICOM images and the FHIR record of one patient. Raises DataError where they are of two, or where
    both have a modality."""
    if not images.identifiers & record.identifiers:
        raise DataError(
            "the FHIR Patient has no identifier that is the PatientID of the DICOM images, expected one "
            "patient"
        )
    both = sorted(images.observed.keys() & record.observed.keys())
    if both:
        raise DataError(f"modality {both[0]!r} came as DICOM and in the FHIR bundle, expected one of them")
    return Received(
        observed={**images.observed, **record.observed},
        identifiers=record.identifiers,
        subject=record.subject,
        evidence=images.evidence,
        notes=images.notes + record.notes,
    )
