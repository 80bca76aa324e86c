from __future__ import annotations

import warnings
from dataclasses import replace
from io import BytesIO
from itertools import combinations

import pytest
from highdicom.sr import MeasurementReport, srread
from pydicom import dcmread
from pydicom.sr.codedict import codes

from robustmdiff.clinical import coding
from robustmdiff.clinical.code_map import CodeMap
from robustmdiff.clinical.dicom_images import evidence_of, read_dicom, silently
from robustmdiff.clinical.structured_report import device_uid, short, structured_report, to_bytes
from robustmdiff.refusal import Refusal
from tests.clinical.patients import ANSWER, MODEL, TASK, evidence, image, of_classes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [evidence(folder / "one.dcm"), evidence(folder / "two.dcm", SeriesInstanceUID="1.2.4")]


FEW = of_classes("a", "b")


def read_back(answer, images, model=MODEL):
    return srread(BytesIO(to_bytes(structured_report(answer, model, images))))


def groups(document):
    """Each measurement group by its tracking identifier, the name in full."""
    content = MeasurementReport.from_sequence(document.content)
    found = content.get_image_measurement_groups()
    return {group.tracking_identifier: group for group in found}


def said(group):
    """(code of what is said, meaning of what is said of it), in order; but for the algorithm's family, which
    highdicom counts among the evaluations."""
    every = [(each.name, each.value.meaning) for each in group.get_qualitative_evaluations()]
    return [(name.value, meaning) for name, meaning in every if name.scheme_designator == coding.DESIGNATOR]


def told(item):
    """Every text of a content tree."""
    texts = [item.TextValue] if "TextValue" in item else []
    return texts + [text for inner in item.get("ContentSequence", []) for text in told(inner)]


def percentiles(group):
    (measured,) = group.get_measurements(name=codes.DCM.Probability)
    inside = measured[0].get("ContentSequence", [])
    return {
        item.ConceptNameCodeSequence[0].CodeValue: item.MeasuredValueSequence[0].NumericValue
        for item in inside
        if item.ValueType == "NUM"
    }


@pytest.fixture(scope="module")
def document(images):
    return read_back(ANSWER, images)


def test_a_report_says_what_the_answer_says(document):
    of = groups(document)
    assert list(of) == ["Answer", "pneumonia", "pulmonary embolism", "fever"]
    assert said(of["Answer"]) == [
        ("set-member", "pneumonia"),
        ("set-member", "pulmonary embolism"),
        ("modality-used", "xray"),
        ("modality-used", "labs"),
        ("modality-missing", "notes"),
        ("nothing-known", "No"),
        ("answer-of", "Mean of the draws of what is missing"),
        ("unlike-training", "No"),
    ]
    for name, p in (ANSWER.probability | ANSWER.findings).items():
        (measured,) = of[name].get_measurements(name=codes.DCM.Probability)
        assert measured.value == p
        assert measured.unit == codes.UCUM.NoUnits
        assert of[name].finding_type.value == coding.name_code(name)
    assert said(of["pneumonia"]) == [("in-set", "Yes")]
    assert percentiles(of["pneumonia"]) == {"371888009": 0.25, "371889001": 0.9375}  # 5th and 95th
    assert percentiles(of["fever"]) == {}
    assert of["pneumonia"].finding_category == codes.DCM.DifferentialDiagnosisImpression
    assert of["fever"].finding_category == codes.SCT.ClinicalFinding


def test_it_is_preliminary_and_says_which_model_and_which_images(document, images):
    assert (document.CompletionFlag, document.PreliminaryFlag, document.VerificationFlag) == (
        *("COMPLETE", "PRELIMINARY", "UNVERIFIED"),
    )
    assert (document.PatientID, document.PatientName, document.StudyInstanceUID) == (
        "12345",
        "Doe^Jane",
        "1.2",
    )
    assert document.CodingSchemeIdentificationSequence[0].CodingSchemeUID == coding.SCHEME_UID
    (device,) = document.content.get_observer_contexts(observer_type=codes.DCM.Device)
    attributes = device.observer_identifying_attributes
    assert attributes.uid == device_uid(MODEL)
    assert attributes.model_name == "RobustMDiff 0.1.0"
    assert attributes.serial_number == MODEL.sha256
    whole = groups(document)["Answer"]
    assert [each.referenced_sop_instance_uid for each in whole.source_images] == [
        image.SOPInstanceUID for image in images
    ]
    assert {instance for _, _, instance, _ in document.get_evidence()} == {
        image.SOPInstanceUID for image in images
    }
    assert f"SHA-256 of weights and calibration: {MODEL.sha256}" in told(document)


def test_a_device_is_known_by_its_weights():
    assert device_uid(MODEL) == device_uid(MODEL._replace(version="0.2.0"))
    assert device_uid(MODEL) != device_uid(MODEL._replace(sha256="cd" * 32))


@pytest.mark.parametrize("n", range(len(TASK.modality_names) + 1))
def test_modalities_are_used_or_missing(images, n):
    for missing in combinations(TASK.modality_names, n):
        nothing = n == len(TASK.modality_names)
        answer = replace(FEW, missing=missing, nothing_known=nothing)
        whole = said(groups(structured_report(answer, MODEL, images[:1]))["Answer"])
        assert [name for what, name in whole if what == "modality-missing"] == list(missing)
        used = [name for what, name in whole if what == "modality-used"]
        assert used == [name for name in TASK.modality_names if name not in missing]
        assert ("nothing-known", "Yes" if nothing else "No") in whole


@pytest.mark.parametrize(("unlike", "told"), [(True, ["Yes"]), (False, ["No"]), (None, [])])
def test_abstention_is_said_where_the_model_was_asked_to_know(images, unlike, told):
    whole = said(groups(read_back(replace(FEW, unlike_training=unlike), images))["Answer"])
    assert [value for what, value in whole if what == "unlike-training"] == told


def test_a_head_s_answer_has_no_interval(images):
    of = groups(read_back(replace(ANSWER, interval={}, answer="head"), images))
    assert ("answer-of", "Head of the model, without draws") in said(of["Answer"])
    assert percentiles(of["pneumonia"]) == {}


def test_names_of_any_alphabet_and_length(images):
    names = ("肺炎", "тромбоэмболия", "a^b=c", "x" * 64, "tumour of " + "y" * 80 + " left", "last")
    of = groups(read_back(of_classes(*names), images))
    assert list(of) == ["Answer", *names]
    for name in names:
        assert of[name].finding_type.meaning == short(name)
        assert len(short(name)) <= 64
        assert of[name].finding_type.value == coding.name_code(name)
    assert short(names[3]) == names[3]
    assert short(names[4]).startswith("tumour of ")
    assert short(names[4]).endswith(" left")
    assert len({coding.name_code(name) for name in names}) == len(names)


def test_names_that_dicom_cannot_hold_or_tell_apart_are_refused(images):
    with pytest.raises(Refusal, match=r"name 'a\\\\b' has a backslash, which separates values in DICOM"):
        structured_report(of_classes("a\\b", "c"), MODEL, images)
    alike = ["x" * 50 + middle + "y" * 50 for middle in ("1", "2")]
    with pytest.raises(Refusal, match="are one in the 64 characters of DICOM"):
        structured_report(of_classes(*alike), MODEL, images)
    with pytest.raises(Refusal, match="evidence is empty, expected the DICOM images"):
        structured_report(ANSWER, MODEL, [])


def test_nothing_else_of_the_patient_is_in_it(tmp_path):
    more = {
        "PatientAddress": "12 Elm Street",
        "PatientComments": "VIP",
        "EthnicGroup": "X1",
        "PatientWeight": 71.25,
        "ReferringPhysicianName": "Who^Doctor",
        "InstitutionName": "General",
        "StudyDescription": "chest pain",
    }
    document = to_bytes(structured_report(FEW, MODEL, [evidence(tmp_path / "a.dcm", **more)]))
    for secret in more.values():
        assert str(secret).encode() not in document


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")]
)
def test_a_patient_s_name_is_kept_in_utf_8(tmp_path, charset, name):
    images = [evidence(tmp_path / "a.dcm", SpecificCharacterSet=charset, PatientName=name)]
    document = to_bytes(structured_report(of_classes("肺炎", "b"), MODEL, images))
    assert dcmread(BytesIO(document)).PatientName == name
    assert name.encode() in document


@pytest.mark.parametrize(
    "fields",
    [
        {"PatientName": "Bono"},
        {"PatientName": "Z" * 100},
        {"PatientName": "A=B=C=D=E"},
        {"PatientID": "x" * 100},
        {"AccessionNumber": "Q" * 40},
        {"StudyDate": "2026.01.02"},
        {"SpecificCharacterSet": "NOPE"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_a_header_should_not_say_is_told_in_no_warning_and_no_log(tmp_path, caplog, fields):
    with silently():
        path = image(tmp_path / "a.dcm", **fields)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        images = read_dicom([path], TASK, CodeMap(TASK)).evidence
        to_bytes(structured_report(FEW, MODEL, images))
    assert [str(each.message) for each in told] == []
    assert caplog.messages == []


def test_an_image_of_no_class_of_dicom_is_refused(tmp_path):
    images = [evidence(tmp_path / "a.dcm", SOPClassUID="1.2.3")]
    with pytest.raises(Refusal, match=r"an image is of SOP class 1\.2\.3, expected one that DICOM defines"):
        structured_report(FEW, MODEL, images)


def test_what_is_not_what_its_keyword_asks_for_is_left_empty(tmp_path):
    path = image(tmp_path / "a.dcm", PatientSex="X", StudyDate="19991231", StudyTime="120000")
    path.write_bytes(path.read_bytes().replace(b"19991231", b"NewYear ").replace(b"120000", b"noon  "))
    document = read_back(FEW, [evidence_of(dcmread(path), path)])
    left = [document.get(keyword) for keyword in ("PatientSex", "StudyDate", "StudyTime", "AccessionNumber")]
    assert left == ["", "", "", ""]
    assert document.PatientBirthDate == "19500131"
