"""FHIR Observations as the values of a task: each field by its code, the latest value, in its unit."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import chain
from typing import Any, NamedTuple

from robustmdiff.clinical.code_map import CodeMap, Column, names_of, said
from robustmdiff.clinical.fhir_bundle import PatientBundle, When, latest, when
from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.units import conversion
from robustmdiff.spelling import match

USABLE = ("final", "amended", "corrected")  # of what a laboratory or a physician has released
NO_UNIT = re.compile(r"1?|\{[^{}]*\}")  # UCUM's one, or an annotation alone, such as {score}
GENDER, BIRTH_DATE = "Patient.gender", "Patient.birthDate"


class Measurement(NamedTuple):
    """content  JSON with one value[x], or none
    names    that it goes by (`code_map.names_of`)
    where    for messages
    """

    content: Mapping[str, Any]
    names: list[str]
    time: When | None
    where: str


class Values(NamedTuple):
    """panels  of each values modality its fields
    notes   a sentence for whatever was not used, or used as less than it says
    """

    panels: dict[str, dict[str, float | str]]
    notes: list[str]


def values_of(bundle: PatientBundle, code_map: CodeMap) -> Values:
    """The values of a bundle by modality and field, the latest of several by effective time. Raises
    DataError, naming entry and field, where none is the latest, for a unit that cannot be converted and for
    a category that is not known."""
    found: dict[str, list[Measurement]] = defaultdict(list)
    panels: dict[str, dict[str, float | str]] = defaultdict(dict)
    notes: list[str] = []
    for measurement in chain(_measurements(bundle, notes), _demographics(bundle, code_map, notes)):
        column = code_map.column(measurement.names, "values")
        if column is None:
            notes.append(f"{measurement.where} is no field of the task, by code or by text")
        elif not any(key.startswith("value") for key in measurement.content):
            notes.append(f"{measurement.where} has no value for {column}")
        else:
            found[str(column)].append(measurement)
    for name, several in found.items():
        column = code_map.columns[name]
        newest = latest([(each, each.time) for each in several], f"{several[0].where}: {name!r}")
        if len(several) > 1:
            notes.append(f"{name}: of {len(several)} values the latest is used")
        assert column.field is not None
        panels[column.modality.name][column.field.name] = _value(newest, column, code_map, notes)
    return Values(dict(panels), notes)


def _measurements(bundle: PatientBundle, notes: list[str]) -> Iterator[Measurement]:
    """What each Observation says itself, and what its components say."""
    for resource in bundle.of_kind("Observation"):
        content, time = resource.content, when(resource.content)
        if content["status"] not in USABLE:
            notes.append(f"{resource.where} is {content['status']!r} and is not used, expected it final")
            continue
        parts = content.get("component", [])
        if not parts or any(key.startswith("value") for key in content):
            yield Measurement(content, names_of([content["code"]]), time, resource.where)
        for n, part in enumerate(parts):
            yield Measurement(part, names_of([part["code"]]), time, f"{resource.where}, component {n}")


def _demographics(bundle: PatientBundle, code_map: CodeMap, notes: list[str]) -> Iterator[Measurement]:
    """The Patient's sex, and the age in years when the last of the resources was so, each where a column
    goes by it."""
    patient, content = bundle.patient, bundle.patient.content
    if "gender" in content and code_map.column([said(GENDER)], "values"):
        yield Measurement({"valueString": content["gender"]}, [said(GENDER)], None, patient.where)
    column = code_map.column([said(BIRTH_DATE)], "values")
    if "birthDate" in content and column:
        times = [time.earliest for resource in bundle.resources if (time := when(resource.content))]
        if not times or len(content["birthDate"]) != len("2026-01-31"):
            notes.append(
                f"{patient.where} gives no {column}: it needs a whole birth date and a dated resource"
            )
            return
        born, now = date.fromisoformat(content["birthDate"]), max(times).date()
        years = now.year - born.year - ((now.month, now.day) < (born.month, born.day))
        quantity = {"value": years, "unit": "a"}
        yield Measurement({"valueQuantity": quantity}, [said(BIRTH_DATE)], None, patient.where)


def _value(measurement: Measurement, column: Column, code_map: CodeMap, notes: list[str]) -> float | str:
    assert column.field is not None
    where = f"{measurement.where}: {str(column)!r}"
    if column.field.categories:
        return _category(measurement.content, column, code_map, where)
    content = measurement.content
    if "valueInteger" in content:
        return _number({"value": content["valueInteger"]}, column.field.unit, where)
    quantity = content.get("valueQuantity")
    if quantity is None or "value" not in quantity:
        raise DataError(f"{where} is no number, expected a Quantity{_in(column.field.unit)}")
    if "comparator" in quantity:
        notes.append(f"{where}: a bound (such as <0.5) is read as its number")
    return _number(quantity, column.field.unit, where)


def _number(quantity: Mapping[str, Any], unit: str, where: str) -> float:
    """A Quantity's number in the field's unit. Its code is UCUM's where its system says so, else its unit
    counts."""
    is_ucum = quantity.get("system") == "http://unitsofmeasure.org"
    given = (quantity.get("code") if is_ucum else None) or quantity.get("unit", "")
    if not unit and NO_UNIT.fullmatch(given):
        return float(quantity["value"])
    try:
        return conversion(given, unit)(float(quantity["value"]))
    except ValueError as error:
        raise DataError(f"{where} is in {given!r}, expected {unit!r} or a unit of it; {error}") from error


def _category(content: Mapping[str, Any], column: Column, code_map: CodeMap, where: str) -> str:
    assert column.field is not None
    known, translated = column.field.categories, code_map.categories.get(str(column), {})
    written = _written(content)
    for text in written:
        category = translated.get(said(text)) or match(text, known)
        if category is not None:
            return category
    shown = " or ".join(map(repr, written)) or "no text"
    raise DataError(f"{where} is {shown}, expected one of {', '.join([*known, *translated])}")


def _written(content: Mapping[str, Any]) -> list[str]:
    """The ways in which a value[x] names a category."""
    concept = content.get("valueCodeableConcept", {})
    coded = [c[key] for c in concept.get("coding", ()) for key in ("display", "code") if key in c]
    plain = [str(content[key]) for key in ("valueString", "valueBoolean", "valueInteger") if key in content]
    return [text for text in (concept.get("text"), *coded, *plain) if text]


def _in(unit: str) -> str:
    return f" in {unit}" if unit else ""
