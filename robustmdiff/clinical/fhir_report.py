"""An answer as a FHIR DiagnosticReport with Observations, in a transaction Bundle that a server takes.

R4B, whose DiagnosticReport, Observation, Device and Bundle are those of R4, which hospitals' systems speak
and national profiles (US Core, ISiK, UK Core) build on. docs/clinical_formats.md has the places as a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from robustmdiff.clinical import coding
from robustmdiff.clinical.coding import Concept
from robustmdiff.clinical.model_record import PRODUCT, ModelRecord

if TYPE_CHECKING:
    from fhir.resources.R4B.bundle import Bundle

    from robustmdiff.answer import Answer

SCHEME = f"urn:oid:{coding.SCHEME_UID}"
SHA_256 = "urn:oid:2.16.840.1.101.3.4.2.1"  # the algorithm, as the system of a digest
DCM = "http://dicom.nema.org/resources/ontology/DCM"
UCUM = "http://unitsofmeasure.org"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"

Json = dict[str, Any]


def fhir_report(
    answer: Answer, model: ModelRecord, subject: Mapping[str, Any], studies: Sequence[str] = ()
) -> Bundle:
    """A preliminary report.

    subject  a FHIR Reference to the patient, by the server's id or by an identifier
    studies  the Study Instance UIDs of the DICOM images that were read
    """
    from fhir.resources.R4B.bundle import Bundle

    device = _entry(_device(model))
    device["request"]["ifNoneExist"] = f"identifier={SHA_256}|{model.sha256}"  # one Device for all reports
    about = {"status": "preliminary", "subject": dict(subject)}
    observed = {**about, "device": {"reference": device["fullUrl"]}}
    observations = [
        _entry(observation | observed)
        for observation in (
            _whole(answer, model),
            *(_of_class(name, answer) for name in answer.probability),
            *(_of_finding(name, p) for name, p in answer.findings.items()),
        )
    ]
    report = {
        "resourceType": "DiagnosticReport",
        **about,
        "code": _public("110003", "Computer Aided Diagnosis"),
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
        "result": [{"reference": entry["fullUrl"]} for entry in observations],
        "conclusion": conclusion(answer, model),
    }
    if studies:
        report["imagingStudy"] = [
            {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}} for uid in studies
        ]
    entries = [_entry(report), device, *observations]
    return Bundle.model_validate({"resourceType": "Bundle", "type": "transaction", "entry": entries})


def to_bytes(report: Bundle) -> bytes:
    """The bundle as JSON, which fhir.resources has read back."""
    text = report.model_dump_json(indent=1)
    type(report).model_validate_json(text)
    return text.encode()


def conclusion(answer: Answer, model: ModelRecord) -> str:
    """What a reader has to know first, in sentences."""
    said = [
        f"Cannot be ruled out, so that the right class is among them in {model.level:.0%} of patients: "
        f"{', '.join(answer.prediction) or 'none'}."
    ]
    if answer.nothing_known:
        said.append("Nothing is known of the patient: the answer is the prevalence of each class.")
    elif answer.missing:
        said.append(f"Missing: {', '.join(answer.missing)}.")
    if answer.unlike_training:
        said.append("The patient is unlike those that the model was trained on: do not rely on it.")
    return " ".join([*said, "Computed by research software; not reviewed by a physician."])


def _device(model: ModelRecord) -> Json:
    return {
        "resourceType": "Device",
        "identifier": [{"system": SHA_256, "value": model.sha256}],
        "manufacturer": PRODUCT,
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "version": [{"value": model.version}],
    }


def _whole(answer: Answer, model: ModelRecord) -> Json:
    """What is said of the answer as a whole."""
    return _observation(
        _private(coding.ANSWER),
        [
            *(_component(coding.SET_MEMBER, valueCodeableConcept=_named(n)) for n in answer.prediction),
            *(_component(coding.USED, valueCodeableConcept=_named(n)) for n in model.used(answer)),
            *(_component(coding.MISSING, valueCodeableConcept=_named(n)) for n in answer.missing),
            _component(coding.NOTHING_KNOWN, valueBoolean=answer.nothing_known),
            _component(coding.ANSWER_OF, valueCodeableConcept=_private(coding.ANSWERS[answer.answer])),
            _component(coding.UNLIKE_TRAINING, valueBoolean=answer.unlike_training)
            if answer.unlike_training is not None
            else _component(coding.UNLIKE_TRAINING, dataAbsentReason=_not_asked()),
        ],
    )


def _of_class(name: str, answer: Answer) -> Json:
    components = [
        _component(coding.CLASS, valueCodeableConcept=_named(name)),
        _component(coding.IN_SET, valueBoolean=name in answer.prediction),
    ]
    if name in answer.interval:
        low, high = (_share(end) for end in answer.interval[name])
        components.append(_component(coding.INTERVAL, valueRange={"low": low, "high": high}))
    return _observation(_probability_of(name), components, valueQuantity=_share(answer.probability[name]))


def _of_finding(name: str, probability: float) -> Json:
    components = [_component(coding.FINDING, valueCodeableConcept=_named(name))]
    return _observation(_probability_of(name), components, valueQuantity=_share(probability))


def _observation(code: Json, components: Sequence[Json], **value: Any) -> Json:
    return {"resourceType": "Observation", "code": code, "component": list(components), **value}


def _component(concept: Concept, **value: Any) -> Json:
    return {"code": _private(concept), **value}


def _probability_of(name: str) -> Json:
    return _public("122157", "Probability") | {"text": f"Probability of {name}"}


def _share(value: float) -> Json:
    return {"value": round(value, 6), "system": UCUM, "code": "1"}


def _named(name: str) -> Json:
    return _private(Concept(coding.name_code(name), name))


def _private(concept: Concept) -> Json:
    coded = {"system": SCHEME, "code": concept.code, "display": concept.meaning}
    return {"coding": [coded], "text": concept.meaning}


def _public(code: str, display: str) -> Json:
    """A concept of DICOM's own terminology."""
    return {"coding": [{"system": DCM, "code": code, "display": display}], "text": display}


def _not_asked() -> Json:
    return {"coding": [{"system": ABSENT, "code": "not-performed", "display": "Not Performed"}]}


def _entry(resource: Json) -> Json:
    request = {"method": "POST", "url": resource["resourceType"]}
    return {"fullUrl": f"urn:uuid:{uuid4()}", "resource": resource, "request": request}
