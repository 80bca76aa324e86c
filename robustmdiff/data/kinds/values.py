"""Values: a column for each field in a table; numbers, and which of them were measured, in a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.data.batch import Panels
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.spelling import unknown
from robustmdiff.data.tables.cells import LARGEST, Row, brief
from robustmdiff.data.task import Field, Modality


def columns(modality: Modality) -> list[tuple[str, ...]]:
    return [(f"{modality.name}.{field.name}",) for field in modality.fields]


def read(
    row: Row, modality: Modality, root: Path | None = None, cache: Path | None = None
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
    modality: Modality,
    rows: np.ndarray,
    patients: Sequence[Patient],
    tokens: Callable[[str], list[int]] | None = None,
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
