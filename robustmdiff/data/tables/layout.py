"""Which columns of a table are which modality: a DataFrame or an array, read as patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient

ALL = "table"  # the modality that all columns are, unless told otherwise


@dataclass(frozen=True)
class Layout:
    """modalities of the columns of a table, and the places of the columns of each."""

    modalities: tuple[Modality, ...]
    places: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, X: Any, modalities: Mapping[str, Any] | None = None) -> Self:
        """Find out what the columns of X hold, from the values that are there.

        X           a pandas DataFrame, or an array of numbers [n, columns].
        modalities  name to a list of columns: names of a DataFrame, else indices. One column that is not in a
                    list is a text if it is not numeric. None: all columns are the modality "table".

        Columns without any value are left out, for nothing can be learned from them. Raises DataError for a
        column that is not there and for one of dates.
        """
        names = list(X.columns) if hasattr(X, "columns") else list(range(X.shape[1]))
        found: list[Modality] = []
        places: dict[str, tuple[int, ...]] = {}
        for name, columns in ({ALL: names} if modalities is None else modalities).items():
            alone = not isinstance(columns, list | tuple)
            at = [_place(column, names, name) for column in ([columns] if alone else columns)]
            at = [place for place in at if any(cell is not None for cell in _cells(X, place))]
            if not at:
                continue
            if alone and not _is_numeric(X, at[0]):
                found.append(Modality(name, "text"))
            else:
                found.append(Modality(name, "values", fields=tuple(_field(X, place, names) for place in at)))
            places[name] = tuple(at)
        if not found:
            raise DataError(f"X: no column of {', '.join(map(str, names))} has a value, expected some")
        return cls(tuple(found), places)

    def patients(self, X: Any) -> list[Patient]:
        """A patient for each row of X, whose columns are as they were in `of`. What is missing and categories
        that were not there are left out; a modality without a cell is absent."""
        rows: list[dict[str, Any]] = [{} for _ in range(len(X))]
        for modality in self.modalities:
            for i, place in enumerate(self.places[modality.name]):
                for row, cell in zip(rows, _cells(X, place), strict=True):
                    if cell is None:
                        continue
                    if modality.kind == "text":
                        row[modality.name] = str(cell)
                        continue
                    field = modality.fields[i]
                    value = _category(cell) if field.categories else _number(cell, field.name)
                    if not field.categories or value in field.categories:
                        row.setdefault(modality.name, {})[field.name] = value
        return [Patient(id=str(i), modalities=row, source=f"row {i}") for i, row in enumerate(rows)]


def _place(column: Any, names: list[Any], modality: str) -> int:
    if names.count(column) != 1:
        problem = "is there twice" if column in names else "is not there"
        known = ", ".join(map(str, names))
        raise DataError(f"modalities: column {column!r} of {modality!r} {problem}, expected one of {known}")
    return names.index(column)


def _cells(X: Any, place: int) -> list[Any]:
    """A column of X; None for what is missing."""
    if hasattr(X, "columns"):
        column = X.iloc[:, place]
        return [
            None if missing else cell
            for cell, missing in zip(column.tolist(), column.isna().tolist(), strict=True)
        ]
    return [None if cell != cell else cell for cell in X[:, place].tolist()]


def _is_numeric(X: Any, place: int) -> bool:
    """By its type, and where that says nothing by its values."""
    kind = (X.iloc[:, place] if hasattr(X, "columns") else X).dtype.kind
    if kind != "O":
        return kind in "biuf"
    return all(isinstance(cell, Real) for cell in _cells(X, place) if cell is not None)


def _field(X: Any, place: int, names: list[Any]) -> Field:
    name = str(names[place]).strip() if hasattr(X, "columns") else f"x{place}"
    if _is_numeric(X, place):
        return Field(name)
    cells = [cell for cell in _cells(X, place) if cell is not None]
    if not isinstance(cells[0], str | bool | Real):
        raise DataError(f"X: column {name!r} holds {type(cells[0]).__name__}, expected numbers or categories")
    return Field(name, categories=tuple(sorted({_category(cell) for cell in cells})))


def _category(cell: Any) -> str:
    return str(cell).strip()


def _number(cell: Any, field: str) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise DataError(f"X: column {field!r} has {cell!r}, expected numbers, as `fit` found there") from None
