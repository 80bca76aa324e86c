"""An answer as a DICOM Structured Report: a Comprehensive SR of template TID 1500, made by highdicom.

A measurement group (TID 1501) says what is said of the answer as a whole; one more for each class and each
finding has its probability. docs/clinical_formats.md has the places as a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from robustmdiff.clinical import coding
from robustmdiff.clinical.coding import Concept
from robustmdiff.clinical.dicom_images import silently
from robustmdiff.clinical.model_record import PRODUCT, ModelRecord
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept, ComprehensiveSR
    from pydicom import Dataset

    from robustmdiff.answer import Answer

LONGEST = 64  # characters of a code's meaning (DICOM's LO)
UTF_8 = "ISO_IR 192"


def structured_report(answer: Answer, model: ModelRecord, evidence: Sequence[Dataset]) -> ComprehensiveSR:
    """A preliminary, unverified report in the study of the first of `evidence`.

    evidence  of each DICOM instance that was read what `dicom_images.evidence_of` keeps: whose it is, and
              which it is

    Raises Refusal for no evidence, for images of a class that DICOM has not, and for names that it cannot
    tell apart or cannot hold.
    """
    from highdicom import UID
    from highdicom.sr import ComprehensiveSR, MeasurementReport, ObservationContext
    from pydicom.sr.codedict import codes

    if not evidence:
        raise Refusal("evidence is empty, expected the DICOM images whose study the report belongs to")
    _check_names([*answer.probability, *answer.findings, *model.modalities])
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(model)),
        procedure_reported=codes.DCM.ComputerAidedDiagnosis,
        imaging_measurements=[
            _whole(answer, model, evidence),
            *(_of_class(name, answer) for name in answer.probability),
            *(_of_finding(name, p) for name, p in answer.findings.items()),
        ],
    )
    try:
        with silently():
            return ComprehensiveSR(
                evidence=evidence,
                content=content,
                series_instance_uid=UID(),
                series_number=1,
                sop_instance_uid=UID(),
                instance_number=1,
                manufacturer=PRODUCT,
                manufacturer_model_name=model.name,
                software_versions=model.version,
                is_complete=True,
                is_final=False,
                is_verified=False,
                specific_character_set=UTF_8,
                coding_schemes=[_scheme()],
            )
    except KeyError as error:
        kind = evidence[0].SOPClassUID
        if error.args[0] != kind:
            raise
        raise Refusal(f"an image is of SOP class {kind}, expected one that DICOM defines") from error


def to_bytes(report: ComprehensiveSR) -> bytes:
    """The report as a DICOM file, which highdicom has read back."""
    from highdicom.sr import srread

    buffer = BytesIO()
    with silently():
        report.save_as(buffer, enforce_file_format=True)
        srread(BytesIO(buffer.getvalue()))
    return buffer.getvalue()


def device_uid(model: ModelRecord) -> str:
    """The same for the same weights."""
    return f"2.25.{uuid5(NAMESPACE_OID, model.sha256).int}"


def _scheme() -> Any:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    scheme = CodingSchemeIdentificationItem(coding.DESIGNATOR, name=PRODUCT)
    scheme.CodingSchemeUID = coding.SCHEME_UID  # which highdicom writes of registered schemes only
    return scheme


def _observer(model: ModelRecord) -> Any:
    """The model as the device that observed."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
    from pydicom.sr.codedict import codes

    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=device_uid(model),
            name=PRODUCT,
            manufacturer_name=PRODUCT,
            model_name=f"{model.name} {model.version}",
            serial_number=model.sha256,
        ),
    )


def _whole(answer: Answer, model: ModelRecord, evidence: Sequence[Dataset]) -> Any:
    """What is said of the answer as a whole, by which algorithm, from which images."""
    from highdicom.sr import AlgorithmIdentification, SourceImageForMeasurementGroup
    from pydicom.sr.codedict import codes

    yes_no = {True: codes.SCT.Yes, False: codes.SCT.No}
    said = [
        *((coding.SET_MEMBER, _named(name)) for name in answer.prediction),
        *((coding.USED, _named(name)) for name in model.used(answer)),
        *((coding.MISSING, _named(name)) for name in answer.missing),
        (coding.NOTHING_KNOWN, yes_no[answer.nothing_known]),
        (coding.ANSWER_OF, _coded(coding.ANSWERS[answer.answer])),
    ]
    if answer.unlike_training is not None:
        said.append((coding.UNLIKE_TRAINING, yes_no[answer.unlike_training]))
    return _group(
        coding.ANSWER.meaning,
        said,
        algorithm_id=AlgorithmIdentification(
            name=model.name,
            version=model.version,
            family=codes.DCM.ArtificialIntelligence,
            manufacturer=PRODUCT,
            parameters=[
                f"SHA-256 of weights and calibration: {model.sha256}",
                f"The prediction sets are to hold the right class in {model.level:.0%} of patients",
            ],
        ),
        source_images=[
            SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in evidence
        ],
    )


def _of_class(name: str, answer: Answer) -> Any:
    from pydicom.sr.codedict import codes

    return _group(
        name,
        [(coding.IN_SET, codes.SCT.Yes if name in answer.prediction else codes.SCT.No)],
        finding_category=codes.DCM.DifferentialDiagnosisImpression,
        finding_type=_named(name),
        measurements=[_probability(answer.probability[name], answer.interval.get(name))],
    )


def _of_finding(name: str, probability: float) -> Any:
    from pydicom.sr.codedict import codes

    return _group(
        name,
        [],
        finding_category=codes.SCT.ClinicalFinding,
        finding_type=_named(name),
        measurements=[_probability(probability)],
    )


def _group(identifier: str, said: Sequence[tuple[Concept, Any]], **more: Any) -> Any:
    """A measurement group; its tracking identifier is a name in full, however long."""
    from highdicom.sr import MeasurementsAndQualitativeEvaluations, QualitativeEvaluation, TrackingIdentifier

    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(identifier=identifier),
        qualitative_evaluations=[QualitativeEvaluation(_coded(concept), value) for concept, value in said],
        **more,
    )


def _probability(value: float, interval: tuple[float, float] | None = None) -> Any:
    from highdicom.sr import (
        Measurement,
        MeasurementProperties,
        MeasurementStatisticalProperties,
        NumContentItem,
    )
    from pydicom.sr.codedict import codes

    properties = None
    if interval is not None:
        percentiles = codes.SCT.FifthPercentile, codes.SCT.NinetyFifthPercentile
        ends = [
            NumContentItem(percentile, round(end, 6), codes.UCUM.NoUnits, relationship_type="HAS PROPERTIES")
            for percentile, end in zip(percentiles, interval, strict=True)
        ]
        spread = MeasurementStatisticalProperties(ends, description=coding.DRAWS)
        properties = MeasurementProperties(measurement_statistical_properties=spread)
    return Measurement(codes.DCM.Probability, round(value, 6), codes.UCUM.NoUnits, properties=properties)


def _named(name: str) -> CodedConcept:
    return _coded(Concept(coding.name_code(name), short(name)))


def _coded(concept: Concept) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(concept.code, coding.DESIGNATOR, concept.meaning)


def short(name: str) -> str:
    """A name as a code's meaning: whole, or, of more than 64 characters, its two ends."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 24]}…{name[-23:]}"


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if "\\" in name:
            raise Refusal(f"name {name!r} has a backslash, which separates values in DICOM, expected none")
        if seen.setdefault(short(name), name) != name:
            raise Refusal(
                f"names {seen[short(name)]!r} and {name!r} are one in the {LONGEST} characters of DICOM, "
                "expected names whose ends differ"
            )
