"""A task, an answer of a model, and what a hospital has of one patient."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace

import numpy as np

from robustmdiff.answer import Answer
from robustmdiff.clinical.dicom_images import evidence_of
from robustmdiff.clinical.model_record import ModelRecord
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from tests.data.pictures.dicom import written

LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
FIELDS = (
    Field("crp", "mg/l"),
    Field("wbc", "10^9/l"),
    Field("score"),
    Field("sex", categories=("F", "M")),
    Field("age", "years"),
)
MODALITIES = (
    Modality("xray", "image", shape=(1, 4, 4)),
    Modality("notes", "text"),
    Modality("labs", "values", fields=FIELDS),
)
TASK = Task(MODALITIES, ("pneumonia", "pulmonary embolism"), (0.75, 0.25))
MODEL = ModelRecord("RobustMDiff", "0.1.0", "ab" * 32, TASK.modality_names, 0.9)
ANSWER = Answer(
    patient="1f",
    probability={"pneumonia": 0.6875, "pulmonary embolism": 0.3125},
    interval={"pneumonia": (0.25, 0.9375), "pulmonary embolism": (0.0625, 0.75)},
    prediction=("pneumonia", "pulmonary embolism"),
    findings={"fever": 0.4375},
    unlike_training=False,
    missing=("notes",),
    answer="draws",
)


def of_classes(*names: str) -> Answer:
    """An answer on these classes, likeliest first, of which the last is ruled out."""
    share = {name: 2.0**-n for n, name in enumerate(names, 1)}
    return replace(ANSWER, probability=share, interval={}, prediction=names[:-1], findings={})


def image(path, **fields):
    """A chest X-ray of 4 x 4 pixels, of 12345 unless fields say otherwise."""
    stored = np.arange(16, dtype=np.uint8).reshape(4, 4)
    known = {"StudyInstanceUID": "1.2", "Modality": "DX", "PatientBirthDate": "19500131", "PatientSex": "F"}
    return written(path, stored, **{**known, **fields})


def evidence(path, **fields):
    from pydicom import dcmread

    return evidence_of(dcmread(image(path, **fields), stop_before_pixels=True), path)


def patient(**more):
    return {
        "resourceType": "Patient",
        "id": "p",
        "identifier": [{"system": "urn:x", "value": "12345"}],
    } | more


def observation(code, value=None, unit="mg/L", time="2026-01-02T08:00:00Z", **more):
    """One of a LOINC code; its value a number in a UCUM unit, unless `more` has another."""
    read = {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": "Patient/p"},
        "code": {"coding": [{"system": LOINC, "code": code}]},
    }
    if time is not None:
        read["effectiveDateTime"] = time
    if value is not None:
        read["valueQuantity"] = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return read | more


def document(text, code="11506-3", kind="text/plain", date="2026-01-02T08:00:00Z"):
    attachment = {"contentType": kind, "data": b64encode(text).decode()}
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": "Patient/p"},
        "type": {"coding": [{"system": LOINC, "code": code}]},
        "date": date,
        "content": [{"attachment": attachment}],
    }


def media(content, kind="image/png", modality="DX"):
    concept = {"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": modality}]}
    return {
        "resourceType": "Media",
        "status": "completed",
        "subject": {"reference": "Patient/p"},
        "modality": concept,
        "content": {"contentType": kind, "data": b64encode(content).decode()},
    }


def bundle(path, *resources, of=None):
    """Of a patient, unless `of` has another list of them."""
    entries = [{"resource": resource} for resource in ([patient()] if of is None else of) + list(resources)]
    read = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    path.write_text(json.dumps(read), encoding="utf-8")
    return path
