"""A FHIR bundle of one patient in a task's terms."""

from __future__ import annotations

from pathlib import Path

from robustmdiff.clinical.code_map import CodeMap
from robustmdiff.clinical.fhir_bundle import identifiers_of, read_bundle, reference_to
from robustmdiff.clinical.fhir_documents import documents_of
from robustmdiff.clinical.fhir_values import values_of
from robustmdiff.clinical.received import Received
from robustmdiff.data.patient import Observation


def read_fhir(path: Path, code_map: CodeMap) -> Received:
    """Observations as values, reports and documents as texts, media as images, each by its code (`CodeMap`).
    Raises DataError, naming the entry, for what is not a bundle of one patient or cannot be meant."""
    bundle = read_bundle(path)
    values, documents = values_of(bundle, code_map), documents_of(bundle, code_map)
    observed: dict[str, Observation] = {**values.panels, **documents.observed}
    id = bundle.patient.content.get("id")
    return Received(
        observed=observed,
        identifiers=identifiers_of(bundle.patient.content) or frozenset((f"Patient/{id}",)),
        subject=reference_to(bundle.patient),
        notes=(*bundle.notes, *values.notes, *documents.notes),
    )
