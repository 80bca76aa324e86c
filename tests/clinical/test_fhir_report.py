from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from fhir.resources.R4B.bundle import Bundle

from robustmdiff.clinical.coding import SCHEME_UID, name_code
from robustmdiff.clinical.fhir_report import fhir_report, to_bytes
from tests.clinical.patients import ANSWER, MODEL, TASK, of_classes

SUBJECT = {"reference": "Patient/p"}


def read_back(answer, model=MODEL, subject=SUBJECT, studies=()):
    """The resources of the bundle by kind, in order."""
    read = Bundle.model_validate_json(to_bytes(fhir_report(answer, model, subject, studies)))
    of: dict[str, list] = {}
    for entry in read.entry:
        of.setdefault(entry.resource.get_resource_type(), []).append(entry.resource)
    return of


def components(observation):
    """(code, component), in order"""
    found = [(each.code.coding[0].code, each) for each in observation.component]
    assert {each.code.coding[0].system for _, each in found} == {f"urn:oid:{SCHEME_UID}"}
    return found


def names(observation, code):
    return [each.valueCodeableConcept.text for what, each in components(observation) if what == code]


def only(observation, code):
    (found,) = [each for what, each in components(observation) if what == code]
    return found


def test_a_report_says_what_the_answer_says():
    whole, *each = read_back(ANSWER)["Observation"]
    assert names(whole, "set-member") == ["pneumonia", "pulmonary embolism"]
    assert names(whole, "modality-used") == ["xray", "labs"]
    assert names(whole, "modality-missing") == ["notes"]
    assert names(whole, "answer-of") == ["Mean of the draws of what is missing"]
    assert only(whole, "unlike-training").valueBoolean is False
    assert only(whole, "nothing-known").valueBoolean is False
    shares = ANSWER.probability | ANSWER.findings
    for observation, (name, p) in zip(each, shares.items(), strict=True):
        assert observation.code.coding[0].code == "122157"  # DICOM's "Probability"
        assert observation.code.text == f"Probability of {name}"
        quantity = observation.valueQuantity
        assert (float(quantity.value), quantity.system, quantity.code) == (
            p,
            "http://unitsofmeasure.org",
            "1",
        )
        what = "class" if name in ANSWER.probability else "finding"
        (coding,) = only(observation, what).valueCodeableConcept.coding
        assert (coding.code, coding.display) == (name_code(name), name)
    spread = only(each[0], "interval").valueRange
    assert (float(spread.low.value), float(spread.high.value)) == ANSWER.interval["pneumonia"]
    assert [only(observation, "in-set").valueBoolean for observation in each[:2]] == [True, True]


def test_it_is_preliminary_and_says_which_model_of_whom():
    subject = {"type": "Patient", "identifier": {"value": "12345"}}
    read = fhir_report(ANSWER, MODEL, subject, ["1.2", "1.3"])
    url = {entry.resource.get_resource_type(): entry.fullUrl for entry in read.entry}
    of = read_back(ANSWER, subject=subject, studies=["1.2", "1.3"])
    (report,), (device,) = of["DiagnosticReport"], of["Device"]
    assert {each.status for each in (report, *of["Observation"])} == {"preliminary"}
    assert {each.subject.identifier.value for each in (report, *of["Observation"])} == {"12345"}
    assert report.code.coding[0].code == "110003"  # DICOM's "Computer Aided Diagnosis"
    assert [s.identifier.value for s in report.imagingStudy] == ["urn:oid:1.2", "urn:oid:1.3"]
    assert (device.deviceName[0].name, device.version[0].value) == ("RobustMDiff", "0.1.0")
    assert device.identifier[0].value == MODEL.sha256
    results = [entry for entry in read.entry if entry.resource.get_resource_type() == "Observation"]
    assert [result.reference for result in read.entry[0].resource.result] == [e.fullUrl for e in results]
    assert {entry.resource.device.reference for entry in results} == {url["Device"]}


def test_the_bundle_can_be_posted_and_makes_one_device_for_all_reports():
    read = fhir_report(ANSWER, MODEL, SUBJECT)
    assert read.type == "transaction"
    for entry in read.entry:
        kind = entry.resource.get_resource_type()
        assert (entry.request.method, entry.request.url) == ("POST", kind)
        assert bool(entry.request.ifNoneExist) == (kind == "Device")


@pytest.mark.parametrize("n", range(len(TASK.modality_names) + 1))
def test_modalities_are_used_or_missing(n):
    for missing in combinations(TASK.modality_names, n):
        nothing = n == len(TASK.modality_names)
        of = read_back(replace(ANSWER, missing=missing, nothing_known=nothing))
        whole, (report,) = of["Observation"][0], of["DiagnosticReport"]
        assert names(whole, "modality-missing") == list(missing)
        assert names(whole, "modality-used") == [n for n in TASK.modality_names if n not in missing]
        assert only(whole, "nothing-known").valueBoolean is nothing
        assert ("Nothing is known of the patient" in report.conclusion) == nothing
        assert (f"Missing: {', '.join(missing)}." in report.conclusion) == (n > 0 and not nothing)


@pytest.mark.parametrize("unlike", [True, False, None])
def test_abstention_is_said_or_said_to_be_unknown(unlike):
    of = read_back(replace(ANSWER, unlike_training=unlike))
    told = only(of["Observation"][0], "unlike-training")
    assert told.valueBoolean is unlike
    assert (told.dataAbsentReason is None) == (unlike is not None)
    assert ("unlike those" in of["DiagnosticReport"][0].conclusion) == bool(unlike)


def test_a_head_s_answer_has_no_interval():
    _, first, *_ = read_back(replace(ANSWER, interval={}, answer="head"))["Observation"]
    assert "interval" not in dict(components(first))


def test_names_of_any_alphabet_and_length_and_small_shares():
    answer = of_classes("肺炎", "x" * 300, "back\\slash", "last")
    answer = replace(answer, probability=answer.probability | {"last": 1e-6, "x" * 300: 4e-7})
    _, *each = read_back(answer)["Observation"]
    assert [only(observation, "class").valueCodeableConcept.text for observation in each] == [
        *answer.probability
    ]
    assert [float(observation.valueQuantity.value) for observation in each] == [0.5, 0.0, 0.125, 1e-6]
