from __future__ import annotations

from dataclasses import replace

import pytest

from robustmdiff.clinical.received import Received, joined
from robustmdiff.data.patient import DataError
from tests.clinical.patients import TASK

IMAGES = Received({"xray": "pixels"}, frozenset({"12345"}), {"type": "Patient"}, notes=("one",))
RECORD = Received({"labs": {"crp": 3}}, frozenset({"12345", "6"}), {"reference": "Patient/p"}, notes=("two",))


def test_images_and_record_of_one_patient_are_joined():
    both = joined(IMAGES, RECORD)
    assert both.observed == {"xray": "pixels", "labs": {"crp": 3}}
    assert (both.subject, both.notes) == ({"reference": "Patient/p"}, ("one", "two"))


def test_two_patients_or_one_modality_twice_are_refused():
    with pytest.raises(DataError, match="has no identifier that is the PatientID") as error:
        joined(IMAGES, replace(RECORD, identifiers=frozenset({"6"})))
    assert "12345" not in str(error.value)
    with pytest.raises(DataError, match="modality 'xray' came as DICOM and in the FHIR bundle"):
        joined(IMAGES, replace(RECORD, observed=IMAGES.observed))


def test_a_patient_s_id_is_the_same_whatever_came_and_names_no_one():
    one, other = IMAGES.patient(TASK, "a.dcm"), replace(IMAGES, observed={}).patient(TASK, "b.dcm")
    assert one.id == other.id != RECORD.patient(TASK, "c.json").id
    assert "12345" not in str(one)
    assert [one.has(name) for name in TASK.modality_names] == [True, False, False]
