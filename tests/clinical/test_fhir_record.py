from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from robustmdiff.clinical.code_map import CodeMap
from robustmdiff.clinical.fhir_record import read_fhir
from robustmdiff.data.patient import DataError
from tests.clinical.patients import TASK, bundle, document, media, observation, patient

MAP = CodeMap(
    TASK,
    {
        "labs.crp": {"codes": ["1988-5", "C-reactive protein"]},
        "labs.wbc": {"codes": ["6690-2"]},
        "labs.score": {"codes": ["9269-2"]},
        "labs.sex": {"codes": ["Patient.gender", "46098-0"], "categories": {"female": "F"}},
        "labs.age": {"codes": ["Patient.birthDate"]},
        "notes": {"codes": ["11506-3", "18748-4"]},
        "xray": {"codes": ["DX"]},
    },
)


@pytest.fixture
def received(tmp_path):
    def read(*resources, of=None):
        return read_fhir(bundle(tmp_path / "bundle.json", *resources, of=of), MAP)

    return read


@pytest.fixture
def refused(received):
    def read(*resources, of=None):
        with pytest.raises(DataError) as error:
            received(*resources, of=of)
        return str(error.value)

    return read


def png():
    content = BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(content, "PNG")
    return content.getvalue()


def test_a_record_in_the_task_s_terms(received):
    of = [patient(gender="female", birthDate="1950-01-03")]
    found = received(
        observation("1988-5", 1.25, "mg/dL"),
        observation("6690-2", 11.5, "10*3/uL"),
        observation("9269-2", 14, "{score}"),
        document("Cough. 咳".encode()),
        media(png()),
        of=of,
    )
    assert found.observed["labs"] == {"crp": 12.5, "wbc": 11.5, "score": 14, "sex": "F", "age": 75}
    assert found.observed["notes"] == "Cough. 咳"
    shares = np.arange(16, dtype=np.float32).reshape(1, 4, 4) / np.float32(255)
    np.testing.assert_array_equal(found.observed["xray"].pixels(), shares)
    assert found.identifiers == {"12345"}
    assert found.subject == {
        "type": "Patient",
        "reference": "Patient/p",
        "identifier": {"system": "urn:x", "value": "12345"},
    }
    assert found.notes == ()


@pytest.mark.parametrize("n", range(4))
def test_what_did_not_come_is_missing(received, n):
    every = {"xray": media(png()), "notes": document(b"x"), "labs": observation("1988-5", 3)}
    for names in combinations(every, n):
        asked = received(*(every[name] for name in names)).patient(TASK, "bundle.json")
        assert [name for name in TASK.modality_names if asked.has(name)] == list(names)


def test_a_display_text_will_do_and_components_are_read(received):
    found = received(observation("", 7) | {"code": {"text": "c-reactive Protein"}})
    assert found.observed["labs"] == {"crp": 7}
    assert received(observation("9269-2", valueInteger=7)).observed["labs"] == {"score": 7}
    part = {key: observation("6690-2", 4.5, "10*9/L")[key] for key in ("code", "valueQuantity")}
    found = received(observation("58410-2", component=[part]))
    assert found.observed["labs"] == {"wbc": 4.5}
    assert found.notes == ()


def test_what_cannot_be_matched_is_listed(received):
    silent = {key: value for key, value in observation("1988-5", 3).items() if key != "subject"}
    absent = {"dataAbsentReason": {"text": "haemolysed"}}
    found = received(
        observation("2345-7", 5),
        observation("1988-5", **absent),
        observation("6690-2", 3, status="preliminary"),
        silent,
        document(b"x", code="1-8"),
        document(b"%PDF", kind="application/pdf"),
        media(png(), modality="US"),
        {"resourceType": "Practitioner", "name": [{"family": "Who"}]},
    )
    assert found.observed == {}
    assert found.notes == (
        "bundle.json: entry 4 (Observation) does not say whom it is about and is not used",
        "bundle.json: Practitioner is not read (1 of them)",
        "bundle.json: entry 1 (Observation) is no field of the task, by code or by text",
        "bundle.json: entry 2 (Observation) has no value for labs.crp",
        "bundle.json: entry 3 (Observation) is 'preliminary' and is not used, expected it final",
        "bundle.json: entry 5 (DocumentReference) is no text of the task, by code or by text",
        "bundle.json: entry 6 (DocumentReference) has an attachment of application/pdf, expected text/plain",
        "bundle.json: entry 7 (Media) is no image of the task, by code or by text",
    )


@pytest.mark.parametrize(
    ("times", "latest"),
    [
        (["2026-01-02T08:00:00Z", "2026-01-02T09:30:00+02:00"], 0),  # 07:30 in UTC
        (["2026-01-02", "2026-01-03T00:00:00Z"], 1),
        (["2026-01", "2025-12-31"], 0),
        (["2025", "2026-01-01", "2025-12"], 1),
    ],
)
def test_of_several_values_the_latest_counts(received, times, latest):
    found = received(*(observation("1988-5", n, time=time) for n, time in enumerate(times)))
    assert found.observed["labs"] == {"crp": latest}
    assert found.notes == (f"labs.crp: of {len(times)} values the latest is used",)


def test_a_period_counts_by_its_end(received):
    early = observation("1988-5", 1, time=None, effectivePeriod={"start": "2025-01-01", "end": "2026-01-01"})
    late = observation("1988-5", 2, time="2025-06-01")
    assert received(early, late).observed["labs"] == {"crp": 1}


@pytest.mark.parametrize(
    "times",
    [
        ["2026-01-02T08:00:00Z", "2026-01-02T09:00:00+01:00"],  # the same instant
        ["2026-01-02", "2026-01-02T08:00:00Z"],  # that day, at some time
        ["2026-01-02", None],
        ["9999-12-31", "2026-01-02"],
    ],
)
def test_a_tie_is_refused(refused, times):
    said = refused(*(observation("1988-5", n, time=time) for n, time in enumerate(times)))
    assert said == (
        "bundle.json: entry 1 (Observation): 'labs.crp' has 2 values of which none is the latest, expected "
        "one that is"
    )


@pytest.mark.parametrize(
    ("code", "unit", "reason"),
    [
        ("1988-5", "mmol/L", "'labs.crp' is in 'mmol/L', expected 'mg/l' or a unit of it; they differ by a"),
        ("1988-5", "s", "they measure different things"),
        ("1988-5", "{score}", "'labs.crp' is in '{score}', expected 'mg/l'"),
        (
            "9269-2",
            "mg/L",
            "'labs.score' is in 'mg/L', expected '' or a unit of it; one of the two states no",
        ),
    ],
)
def test_a_unit_that_cannot_be_converted_is_refused(refused, code, unit, reason):
    said = refused(observation(code, 3, unit))
    assert said.startswith("bundle.json: entry 1 (Observation): 'labs.")
    assert reason in said


def test_a_number_without_its_unit_is_refused(refused):
    said = refused(observation("1988-5", valueQuantity={"value": 3}))
    assert "is in '', expected 'mg/l' or a unit of it; one of the two states no unit" in said
    assert "is no number, expected a Quantity in mg/l" in refused(observation("1988-5", valueString="high"))


def test_a_unit_without_a_system_is_read_as_it_is_written(received):
    odd = {"value": 2, "unit": "g/l", "system": "urn:local", "code": "GL"}
    assert received(observation("1988-5", valueQuantity=odd)).observed["labs"] == {"crp": 2000}


def test_a_bound_is_read_as_its_number_and_said(received):
    bound = {"value": 5, "unit": "mg/L", "comparator": "<"}
    found = received(observation("1988-5", valueQuantity=bound))
    assert found.observed["labs"] == {"crp": 5}
    assert found.notes == (
        "bundle.json: entry 1 (Observation): 'labs.crp': a bound (such as <0.5) is read as its number",
    )


@pytest.mark.parametrize(
    ("value", "category"),
    [
        ({"valueString": "Female"}, "F"),
        ({"valueString": "m"}, "M"),
        ({"valueCodeableConcept": {"coding": [{"code": "X", "display": "female"}]}}, "F"),
        ({"valueCodeableConcept": {"coding": [{"code": "M"}]}}, "M"),
    ],
)
def test_a_category_is_known_by_its_name_or_by_the_map(received, value, category):
    assert received(observation("46098-0", **value)).observed["labs"] == {"sex": category}


def test_a_category_that_is_not_known_is_refused(refused):
    said = refused(observation("46098-0", valueString="unknown"))
    assert said.endswith("'labs.sex' is 'unknown', expected one of F, M, female")
    assert "is no text, expected one of" in refused(observation("46098-0", 1))


@pytest.mark.parametrize(
    ("birth", "time", "age"),
    [("1950-03-01", "2026-02-28", 75), ("1950-03-01", "2026-03-01", 76), ("2026-01-01", "2026-01-02", 0)],
)
def test_age_is_that_of_the_last_resource(received, birth, time, age):
    of = [patient(birthDate=birth)]
    found = received(
        observation("6690-2", 4, "10*9/L", time="2020-01-01"), document(b"x", date=f"{time}T00:00:00Z"), of=of
    )
    assert found.observed["labs"]["age"] == age


@pytest.mark.parametrize(("birth", "time"), [("1950", "2026-03-01"), ("1950-03-01", None)])
def test_an_age_that_cannot_be_told_is_listed(received, birth, time):
    found = received(observation("6690-2", 4, "10*9/L", time=time), of=[patient(birthDate=birth)])
    assert found.observed["labs"] == {"wbc": 4}
    assert found.notes == (
        "bundle.json: entry 0 (Patient) gives no labs.age: it needs a whole birth date and a dated resource",
    )


def test_a_report_s_conclusion_and_text_and_the_later_of_two(received):
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "subject": {"reference": "Patient/p"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "18748-4"}]},
        "effectiveDateTime": "2026-02-01",
        "conclusion": "Pneumonia.",
        "presentedForm": [
            {
                "contentType": "text/plain; charset=iso-8859-1",
                "data": b64encode("Größe".encode("latin-1")).decode(),
            }
        ],
    }
    found = received(document(b"older"), report)
    assert found.observed == {"notes": "Pneumonia.\nGröße"}
    assert found.notes == ("notes: of 2 documents the latest is used",)
    found = received(
        {**report, "conclusion": "None.", "presentedForm": [{"contentType": "text/plain", "url": "x"}]}
    )
    assert found.observed == {"notes": "None."}
    assert "has an attachment that lies elsewhere, expected its data" in found.notes[0]


def test_an_attachment_that_is_not_what_it_says_is_refused(refused, received):
    assert "has a text that is not in utf-8, expected it" in refused(document(b"\xff\xfe"))
    read = document(b"x")
    read["content"][0]["attachment"]["data"] = "%%%%"
    assert "has an attachment that is not base64, expected it" in refused(read)
    with pytest.raises(DataError, match=r"bundle.json: entry 1 \(Media\) is not an image"):
        received(media(b"no image")).observed["xray"].pixels()


def other(reference):
    return observation("1988-5", 3) | {"subject": reference}


@pytest.mark.parametrize(
    "reference",
    [
        {"reference": "Patient/q"},
        {"reference": "Group/p"},
        {"reference": "urn:uuid:1f"},
        {"identifier": {"system": "urn:x", "value": "777"}},
        {"identifier": {"system": "urn:y", "value": "12345"}},
        {"display": "Jane Doe"},
    ],
)
def test_another_patient_is_refused_and_not_named(refused, reference):
    said = refused(other(reference))
    assert said == (
        "bundle.json: entry 1 (Observation): is not about the Patient of the bundle, expected one patient"
    )


@pytest.mark.parametrize(
    "reference",
    [
        {"reference": "Patient/p/_history/2"},
        {"reference": "https://fhir.example/r4/Patient/p"},
        {"identifier": {"system": "urn:x", "value": "12345"}},
    ],
)
def test_the_patient_may_be_referred_to_in_other_ways(received, reference):
    assert received(other(reference)).observed["labs"] == {"crp": 3}


def test_null_says_nothing(received):
    found = received(
        other(None), document(b"x") | {"date": None}, observation("6690-2") | {"valueString": None}
    )
    assert found.observed == {"notes": "x"}
    assert found.notes == (
        "bundle.json: entry 1 (Observation) does not say whom it is about and is not used",
        "bundle.json: entry 3 (Observation) has no value for labs.wbc",
    )


@pytest.mark.parametrize("of", [[], [patient(), patient(id="q")]])
def test_a_bundle_is_of_one_patient(refused, of):
    assert refused(of=of) == f"bundle.json: holds {len(of)} Patient resources, expected one"


def test_a_patient_who_cannot_be_referred_to_is_refused(refused):
    assert refused(of=[{"resourceType": "Patient"}]) == (
        "bundle.json: entry 0 (Patient): has neither id nor identifier, expected one to report on"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON in UTF-8, expected a FHIR Bundle"),
        ("[" * 100_000, "is not JSON in UTF-8, expected a FHIR Bundle"),
        ("[]", r"is not a FHIR Bundle \(resourceType\), expected one"),
        ('{"resourceType": "Patient"}', r"is not a FHIR Bundle \(resourceType\), expected one"),
        (
            '{"resourceType": "Bundle"}',
            r"is not a FHIR R4B Bundle \(type: model_field_validation.missing\), expected a valid one",
        ),
        (
            '{"resourceType": "Bundle", "type": "collection", "entry": 3}',
            r"is not a FHIR R4B Bundle \(entry: list_type\)",
        ),
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path, text, message):
    path = tmp_path / "bundle.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"bundle.json: {message}"):
        read_fhir(path, MAP)


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Observation", "status": "final", "subject": {"reference": "Jane Doe"}},
        {"resourceType": "ActorDefinition"},
        {
            "resourceType": "Observation",
            "effectiveDateTime": "Jane Doe",
            "status": "final",
            "code": {"text": "x"},
        },
        observation("1988-5", "Jane Doe"),
        observation("1988-5", float("nan")),
        {"resourceType": 3},
        7,
    ],
)
def test_an_invalid_resource_is_refused_and_not_quoted(refused, resource):
    said = refused(resource)
    assert said.startswith("bundle.json: ")
    assert "Jane" not in said
