"""The COVID-19 image repository of Hannover Medical School: data.csv + png/ (CC BY 3.0).

Every row is one radiograph, and every offset counts days from that radiograph: a laboratory
value with offset -1 was there a day before, one with offset 2 came two days later. The index
time is the radiograph, and nothing later reaches a model. All patients have COVID-19; what is
asked is what becomes of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.tables.read import find_table, read_table
from robustmdiff.data.task import Task
from robustmdiff.labels import INDEPENDENT
from robustmdiff.spelling import canonical

# Units and reference ranges of the repository's own table of features, which calls the factor
# XIII; the column says xii. Blood gases have no range there.
LABS: dict[str, Field] = {
    "crp": Field("crp", "mg/l", (0, 5)),
    "d-dimer": Field("d-dimer", "mg/l", (0, 0.5)),
    "factor_xii": Field("factor_xiii", "%", (70, 140)),
    "ldh": Field("ldh", "U/l", (0, 248)),
    "lymphocytes": Field("lymphocytes", "10^9/l", (1.1, 4.0)),
    "neutrophils": Field("neutrophils", "10^9/l", (1.5, 7.7)),
    "pco2": Field("pco2", "mmHg", (35, 45)),
    "po2": Field("po2", "mmHg", (75, 100)),
}
# The repository writes -inf below and inf above the limit of detection, without the limit; the
# smallest and the largest value it reports stand in for it.
LIMITS: dict[str, tuple[float, float]] = {
    "crp": (0, 355),
    "d-dimer": (0.3, 17.1),
    "factor_xii": (35, 95),
    "ldh": (180, 1315),
    "lymphocytes": (0.2, 2.8),
    "neutrophils": (1.6, 17.6),
    "pco2": (25, 75),
    "po2": (20, 340),
}
FIELDS = (
    Field("sex", categories=("F", "M")),
    Field("age", "years"),
    Field("size", "cm"),
    Field("weight", "kg"),
    Field("projection", categories=("ap", "pa", "lateral")),
    *LABS.values(),
)
COLUMNS = (
    *("patient_id", "image_id", "sex", "age", "size", "weight", "admission_offset"),
    *("icu_admission_offset", "icu_release_offset", "death_offset", "modality", "projection"),
    *(f"{lab}_{part}" for lab in LABS for part in ("offset", "val")),
)
OUTCOMES = ("icu", "death")
CENTURY = 36_525.0  # days; an offset beyond it is an error


def load_hannover(
    root: str | Path,
    image_size: int = 64,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """One `Patient` per radiograph (`group` is the person), and the task of foreseeing two
    outcomes, each its own yes or no:

    icu     in intensive care on the day of the radiograph or later. Unknown for a patient
            already released from there.
    death   recorded on that day or later.

    A patient without an entry is taken as a no, as the repository does ("days until death or
    null"); those lost to follow-up are not told apart. Raises DataError naming file, row and column of
    every row that cannot be read, unless `bad` is to skip them.
    """
    root, bad = Path(root), bad or BadRows()
    xray = Modality("xray", "image", shape=(1, image_size, image_size))
    patients: list[Patient] = []
    seen: dict[str, str] = {}
    for row in _rows(root, bad):
        with bad.row():
            patients.append(_patient(root, row, seen, xray, Path(cache) if cache else None))
    bad.check()
    task = Task(
        modalities=(xray, Modality("structured", "values", fields=FIELDS, cost=0.5)),
        classes=OUTCOMES,
        prevalence=prevalence(patients, OUTCOMES, INDEPENDENT),
        multilabel=True,
    )
    return patients, task


def verify(root: str | Path) -> dict[str, int | dict[str, int]]:
    """What is there, counted."""
    root = Path(root)
    rows = list(_rows(root, BadRows(skip=True)))
    outcomes = [_outcomes(row) for row in rows]
    return {
        "rows": len(rows),
        "images present": sum((root / "png" / f"{row.cells['image_id']}.png").is_file() for row in rows),
        "patients": len({row.cells["patient_id"] for row in rows}),
        "lab values": sum(bool(row.cells[f"{lab}_val"]) for row in rows for lab in LABS),
        "lab values after the image, left out": sum(
            bool(row.cells[f"{lab}_val"]) and _lab(row, lab) is None for row in rows for lab in LABS
        ),
        "values": dict(Counter(name for row in rows for name in _values(row))),
        "outcomes": {
            f"{name} {says}": sum(o.get(name) is value for o in outcomes)
            for name in OUTCOMES
            for says, value in (("yes", True), ("no", False), ("unknown", None))
        },
    }


def _patient(root: Path, row: Row, seen: dict[str, str], xray: Modality, cache: Path | None) -> Patient:
    """The patient of a row; `seen` holds the ids so far and where they stand."""
    image = root / "png" / f"{row.cells['image_id']}.png"
    where = f"{row.source}, column 'image_id'"
    id = f"{row.cells['patient_id']}/{row.cells['image_id']}"
    if not row.name("patient_id") or not row.name("image_id"):
        raise DataError(f"{row.source}: patient_id/image_id is {id!r}, expected both")
    if canonical(id) in seen:
        first = seen[canonical(id)]
        raise row.error("image_id", f"which is there already ({first}), expected each image once")
    seen[canonical(id)] = row.source
    picture = None
    if image.is_file():
        picture = ImageFile(str(image), xray, f"{where}: {image.name}", cache)
    age = row.number("age", 0, 120)
    return Patient(
        id=id,
        modalities={"xray": picture, "structured": _values(row) or None},
        labels=_outcomes(row),
        source=row.source,
        site="hannover",
        age=age,
        group=row.cells["patient_id"],
    )


def _rows(root: Path, bad: BadRows) -> Iterable[Row]:
    return read_table(find_table(root, "data"), COLUMNS, bad=bad)


def _values(row: Row) -> dict[str, float | str]:
    values = {
        "sex": row.one_of("sex", {"f": "F", "w": "F", "m": "M"}),
        "age": row.number("age", 0, 120),
        "size": row.number("size", 20, 250),
        "weight": row.number("weight", 0.3, 500),
        "projection": row.one_of("projection", {"ap": "ap", "pa": "pa", "lateral": "lateral"}),
        **{field.name: _lab(row, lab) for lab, field in LABS.items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def _lab(row: Row, lab: str) -> float | None:
    """The value, if it was there when the radiograph was taken; a value without a time is not
    known to have been."""
    column = f"{lab}_val"
    lowest, highest = LIMITS[lab]
    value = {"-inf": lowest, "inf": highest}.get(row.cells[column].lower())
    if value is None:
        value = row.number(column, 0, math.inf)
    offset = row.number(f"{lab}_offset", -CENTURY, CENTURY)
    if value is None or offset is None or offset > 0:
        return None
    return value


def _outcomes(row: Row) -> dict[str, bool]:
    """What holds on the day of the radiograph or later (offset 0 is that day)."""
    admission = row.number("icu_admission_offset", -CENTURY, CENTURY)
    release = row.number("icu_release_offset", -CENTURY, CENTURY)
    death = row.number("death_offset", 0, CENTURY)
    outcomes = {"death": death is not None}
    if admission is None:
        outcomes["icu"] = False
    elif release is None or release >= 0:
        outcomes["icu"] = True
    return outcomes
