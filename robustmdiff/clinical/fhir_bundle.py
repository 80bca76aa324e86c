"""A FHIR bundle: validated, of one patient, with the time of each resource."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from robustmdiff.data.patient import DataError

READ = ("Observation", "DiagnosticReport", "DocumentReference", "Media")
MOMENT = timedelta(microseconds=1)
TIMES = (  # when something was so; else when it was made known
    *("effectiveDateTime", "effectiveInstant", "effectivePeriod"),
    *("createdDateTime", "createdPeriod", "date", "issued"),
)


class Resource(NamedTuple):
    """content  JSON, as FHIR R4B defines it
    where    for messages: "bundle.json: entry 3 (Observation)"
    """

    content: Mapping[str, Any]
    where: str

    @property
    def kind(self) -> str:
        return self.content["resourceType"]


class PatientBundle(NamedTuple):
    """patient    the Patient
    resources  those of the kinds that are `READ`, all about this patient
    notes      a sentence for whatever else there is
    """

    patient: Resource
    resources: tuple[Resource, ...]
    notes: tuple[str, ...]

    def of_kind(self, *kinds: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.kind in kinds]


class When(NamedTuple):
    """The first and the last moment that it may have been, aware: of an instant the same, of a date those of
    its day in UTC. A period counts by its end."""

    earliest: datetime
    latest: datetime


def read_bundle(path: Path) -> PatientBundle:
    """Raises DataError for what is not a FHIR R4B Bundle about one Patient. No message quotes a value."""
    entries = _validated(path).get("entry", [])
    resources = [
        (entry.get("fullUrl"), Resource(entry["resource"], f"{path.name}: entry {n} ({kind})"))
        for n, entry in enumerate(entries)
        if (kind := entry.get("resource", {}).get("resourceType"))
    ]
    patients = [(url, resource) for url, resource in resources if resource.kind == "Patient"]
    if len(patients) != 1:
        raise DataError(f"{path.name}: holds {len(patients)} Patient resources, expected one")
    url, patient = patients[0]
    about, notes = [], []
    for _, resource in resources:
        subject = resource.content.get("subject")
        if resource.kind not in READ:
            continue
        if not subject:
            notes.append(f"{resource.where} does not say whom it is about and is not used")
        elif not _is_of(subject, patient.content, url):
            raise DataError(f"{resource.where}: is not about the Patient of the bundle, expected one patient")
        else:
            about.append(resource)
    others = Counter(resource.kind for _, resource in resources if resource.kind not in ("Patient", *READ))
    notes += [f"{path.name}: {kind} is not read ({n} of them)" for kind, n in others.items()]
    return PatientBundle(patient, tuple(about), tuple(notes))


def identifiers_of(patient: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(i["value"] for i in patient.get("identifier", ()) if i.get("value"))


def reference_to(patient: Resource) -> Mapping[str, Any]:
    """A Reference by which the server that the bundle came from finds the patient."""
    id, identifiers = patient.content.get("id"), patient.content.get("identifier", ())
    if not id and not identifiers:
        raise DataError(f"{patient.where}: has neither id nor identifier, expected one to report on")
    reference: dict[str, Any] = {"type": "Patient"}
    if id:
        reference["reference"] = f"Patient/{id}"
    if identifiers:
        reference["identifier"] = {k: v for k, v in identifiers[0].items() if k in ("system", "value")}
    return reference


def when(content: Mapping[str, Any]) -> When | None:
    for key in TIMES:
        said = content.get(key)
        if isinstance(said, Mapping):
            said = said.get("end") or said.get("start")
        if isinstance(said, str):
            return _when(said)
    return None


Thing = TypeVar("Thing")


def latest(candidates: Sequence[tuple[Thing, When | None]], what: str) -> Thing:
    """The one after all others. Raises DataError, which begins with `what`, where none is."""
    if len(candidates) == 1:
        return candidates[0][0]
    dated = [(thing, time) for thing, time in candidates if time is not None]
    if len(dated) == len(candidates):
        newest, at = max(dated, key=lambda each: each[1].earliest)
        if all(thing is newest or time.latest < at.earliest for thing, time in dated):
            return newest
    raise DataError(f"{what} has {len(candidates)} values of which none is the latest, expected one that is")


def _when(said: str) -> When | None:
    """FHIR's dateTime: a year, a month, a day, or an instant with its zone. None after the year 9998."""
    try:
        if "T" in said:
            instant = datetime.fromisoformat(said)
            return When(instant, instant)
        year, month, day = [*map(int, said.split("-")), 1, 1][:3]
        first = datetime(year, month, day, tzinfo=UTC)
        if said.count("-") == 2:
            return When(first, first + timedelta(days=1) - MOMENT)
        months = year * 12 + (month if said.count("-") == 1 else 12)  # until the one that follows
        return When(first, datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC) - MOMENT)
    except (ValueError, OverflowError):  # "9999" says that there is no end
        return None


def _is_of(subject: Mapping[str, Any], patient: Mapping[str, Any], url: str | None) -> bool:
    reference = subject.get("reference", "").split("/_history/")[0]
    if reference:
        by_id = f"Patient/{patient['id']}" if patient.get("id") else None
        return reference in (url, by_id) or bool(by_id and url is None and reference.endswith(f"/{by_id}"))
    asked = subject.get("identifier", {})
    return any(
        asked.get("value") and (own.get("system"), own.get("value")) == (asked.get("system"), asked["value"])
        for own in patient.get("identifier", ())
    )


def _without_nulls(read: Any) -> Any:
    """JSON's null is nothing that FHIR has said."""
    if isinstance(read, dict):
        return {key: _without_nulls(value) for key, value in read.items() if value is not None}
    return [_without_nulls(value) for value in read if value is not None] if isinstance(read, list) else read


def _validated(path: Path) -> Mapping[str, Any]:
    from fhir.resources.R4B.bundle import Bundle
    from pydantic import ValidationError

    try:
        read = _without_nulls(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: is not JSON in UTF-8, expected a FHIR Bundle") from error
    if not isinstance(read, dict) or read.get("resourceType") != "Bundle":
        raise DataError(f"{path.name}: is not a FHIR Bundle (resourceType), expected one")
    try:
        Bundle.model_validate(read)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, problem["loc"])) or "Bundle"
        raise DataError(
            f"{path.name}: is not a FHIR R4B Bundle ({place}: {problem['type']}), expected a valid one"
        ) from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:  # of no resource of R4B
        raise DataError(
            f"{path.name}: holds a resource that FHIR R4B does not have, expected none"
        ) from error
    return read
