"""Patients of a pandas DataFrame."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.sources.folder import Columns, columns_of, patient_of
from robustmdiff.data.tables.cells import Row, written
from robustmdiff.data.tables.read import check_columns
from robustmdiff.data.task import Task
from robustmdiff.spelling import canonical

PLAIN = Columns(ignore=(), uncertain=None)


def read_frame(
    frame: Any, task: Task, root: str | Path = ".", *, bad: BadRows | None = None
) -> list[Patient]:
    """A patient for each row, in the terms of `task`.

    frame  a pandas DataFrame with columns named as those of `patients.csv` (docs/data.md). One that is not
           there is not measured, one that the task does not know is an error. NaN, None, NaT and NA are blank
           cells. Without a column "id" the index names the patients.
    root   where the files are that the frame names.

    Raises DataError naming row (by its place, from 0) and column of every row that cannot be read, unless
    `bad` is to skip them.
    """
    bad = bad or BadRows()
    header = [str(name) for name in frame.columns]
    check_columns("DataFrame", header, (), columns_of(task))
    tally = Counter[tuple[str, str]]()
    patients: list[Patient] = []
    seen: dict[str, int] = {}
    for i, (name, values) in enumerate(zip(frame.index, frame.to_numpy(dtype=object), strict=True)):
        cells = {column: _cell(value) for column, value in zip(header, values, strict=True)}
        row = Row(f"DataFrame row {i}", {"id": _cell(name)} | cells, tally)
        with bad.row():
            if not row.name("id"):
                raise row.error("id", "expected an id")
            first = seen.setdefault(canonical(row.name("id")), i)
            if first != i:
                raise row.error("id", f"expected one not used before (row {first})")
            patients.append(patient_of(row, task, Path(root), PLAIN))
    bad.check()
    for (column, what), count in tally.items():
        warnings.warn(f"DataFrame, column {column!r}: cells where {what}: {count}", stacklevel=2)
    if not patients:
        raise DataError("DataFrame: has no row, expected at least one patient")
    return patients


def _cell(value: Any) -> str:
    nothing = value is None or type(value).__name__ in ("NAType", "NaTType")
    nothing = nothing or (isinstance(value, float | np.floating) and np.isnan(value))
    return "" if nothing else written(value).strip()
