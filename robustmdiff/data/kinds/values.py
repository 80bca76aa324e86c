"""Values: a column for each field in a table; numbers, and which of them were measured, in a batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np

from robustmdiff.data.batch import A
from robustmdiff.data.kinds.kind import OPEN, Kind, Spans, Spec, Tokens, check_parts
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.tables.cells import LARGEST, Row, brief
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown


class Panels(NamedTuple, Generic[A]):
    """The values of the n patients who have any panel. A cell that was not measured has
    present False and value 0; categorical fields hold the category's index."""

    rows: A  # [n] int64, ascending
    value: A  # [n, F] float32
    present: A  # [n, F] bool


class Values(Kind):
    """A mapping from field name to number or category; what was not measured is not in it."""

    settings = ("fields",)

    def check(self, modality: Modality, where: str) -> None:
        if not modality.fields:
            raise Refusal(f"{where}: fields is empty, expected at least one Field")
        super().check(modality, where)

    def columns(self, modality: Modality) -> list[tuple[str, ...]]:
        return [(f"{modality.name}.{field.name}",) for field in modality.fields]

    def read(
        self, row: Row, modality: Modality, root: Path | None = None, cache: Path | None = None
    ) -> dict[str, float | str] | None:
        panel: dict[str, float | str] = {}
        for field in modality.fields:
            column = f"{modality.name}.{field.name}"
            value: float | str | None
            if field.categories:
                value = row.one_of(column, {category: category for category in field.categories})
            else:
                value = row.measured(column, unit=field.unit)
            if value is not None:
                panel[field.name] = value
        return panel or None

    def pack(
        self, modality: Modality, rows: np.ndarray, patients: Sequence[Patient], tokens: Tokens
    ) -> Panels[np.ndarray]:
        # Cells go through lists: writing an array cell by cell takes ten times as long.
        value = [[0.0] * len(modality.fields) for _ in patients]
        present = [[False] * len(modality.fields) for _ in patients]
        place = {field.name: j for j, field in enumerate(modality.fields)}
        for i, patient in enumerate(patients):
            for j, cell in _cells(patient, modality, place):
                value[i][j] = cell
                present[i][j] = True
        size = (len(patients), len(modality.fields))
        return Panels(
            rows,
            np.array(value, dtype=np.float32).reshape(size),
            np.array(present, dtype=bool).reshape(size),
        )

    def specs(self, modality: Modality) -> dict[str, Spec]:
        shape = (OPEN, len(modality.fields))
        return {"value": Spec(np.dtype(np.float32), shape), "present": Spec(np.dtype(np.bool_), shape)}

    def check_arrays(
        self, modality: Modality, arrays: dict[str, np.ndarray], entries: int, longest: int
    ) -> None:
        for f, field in enumerate(modality.fields):
            cells = arrays["value"][arrays["present"][:, f], f]
            if field.categories and not np.isin(cells, np.arange(len(field.categories))).all():
                raise DataError(
                    f"{modality.name}.value of field {field.name!r} is no category's number, expected 0 to "
                    f"{len(field.categories) - 1}"
                )

    def expected(self, modality: Modality) -> str:
        return "an object of some of " + ", ".join(map(_described, modality.fields))

    def schema(self, modality: Modality) -> dict[str, Any]:
        number = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
        cells = {}
        for field in modality.fields:
            cell = {"enum": [*field.categories]} if field.categories else number | {"description": field.unit}
            cells[field.name] = {"anyOf": [cell, {"type": "null"}]}
        return {"type": "object", "properties": cells, "required": [], "additionalProperties": False}

    def from_json(self, given: Any) -> Any:
        """null is what was not measured."""
        return {name: x for name, x in given.items() if x is not None} if isinstance(given, dict) else given

    def told(self, modality: Modality, observed: Any, parts: Any, spans: Spans) -> dict[str, float]:
        """Fields [F] by name, the measured ones."""
        check_parts(modality, parts, (len(modality.fields),))
        values = zip(modality.fields, parts.tolist(), strict=True)
        return {field.name: value for field, value in values if field.name in observed}


def _described(field: Field) -> str:
    what = f"one of {', '.join(field.categories)}" if field.categories else f"number {field.unit}".rstrip()
    return f"{field.name} ({what})"


def _cells(patient: Patient, modality: Modality, place: Mapping[str, int]) -> Iterable[tuple[int, float]]:
    panel: Any = patient.modalities[modality.name]
    where = f"{patient}, modality {modality.name!r}"
    if not isinstance(panel, Mapping):
        raise DataError(f"{where}: is {brief(panel)}, expected a mapping from field name to value")
    for name, value in panel.items():
        if name not in place:
            raise DataError(f"{where}: {unknown('field', name, place)}")
        yield place[name], _cell(value, modality.fields[place[name]], where)


def _cell(value: Any, field: Field, where: str) -> float:
    """The number that stands for `value`: itself, or the index of its category."""
    if field.categories:
        if value in field.categories:
            return float(field.categories.index(value))
        raise DataError(
            f"{where}, field {field.name!r}: is {value!r}, expected one of {', '.join(field.categories)}"
        )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DataError(f"{where}, field {field.name!r}: is {brief(value)}, expected a number")
    number = float(value)
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise DataError(
            f"{where}, field {field.name!r}: is {number}, expected a finite float32 "
            "(leave the field out if it was not measured)"
        )
    return number
