"""SUPPORT2 (Knaus et al. 1995): support2.csv, seriously ill patients of five hospitals on day 3 of the study.

The columns known by then are five modalities: demographics, diagnosis, vitals, laboratory and function.

Never to a model: outcomes (death, hospdead, d.time, slos, sfdm2, charges, totcst, totmcst), the predictions
of others (surv2m, surv6m of a model, prg2m, prg6m of physicians), decisions (dnr, dnrday), scores made of the
rest or later (aps, sps, avtisst), when the study began (hday), and adlsc, whose gaps were imputed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.tables.read import find_table, read_table
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical

GROUPS: Mapping[str, tuple[Field, ...]] = {
    "demographics": (
        Field("age", "years"),
        Field("sex", categories=("female", "male")),
        Field("race", categories=("white", "black", "hispanic", "asian", "other")),
        Field("edu", "years"),
        Field("income", categories=("under $11k", "$11-$25k", "$25-$50k", ">$50k")),
    ),
    "diagnosis": (
        Field(
            "dzgroup",
            categories=(
                *("ARF/MOSF w/Sepsis", "CHF", "COPD", "Cirrhosis", "Colon Cancer", "Coma"),
                *("Lung Cancer", "MOSF w/Malig"),
            ),
        ),
        Field("dzclass", categories=("ARF/MOSF", "COPD/CHF/Cirrhosis", "Cancer", "Coma")),
        Field("num.co"),
        Field("diabetes", categories=("0", "1")),
        Field("dementia", categories=("0", "1")),
        Field("ca", categories=("no", "yes", "metastatic")),
    ),
    "vitals": (
        Field("meanbp", "mmHg"),
        Field("hrt", "1/min"),
        Field("resp", "1/min"),
        Field("temp", "degC"),
        Field("scoma"),
    ),
    "laboratory": (
        Field("pafi", "mmHg"),
        Field("ph"),
        Field("wblc", "10^9/l"),
        Field("alb", "g/dl"),
        Field("bili", "mg/dl"),
        Field("crea", "mg/dl"),
        Field("sod", "mmol/l"),
        Field("glucose", "mg/dl"),
        Field("bun", "mg/dl"),
        Field("urine", "ml"),
    ),
    "function": (Field("adlp"), Field("adls")),
}
# A number beyond these is a slip; others are 0 or more.
LIMITS = {"age": (0, 120), "temp": (25, 45), "ph": (6, 8), "scoma": (0, 100), "adlp": (0, 7), "adls": (0, 7)}
DAYS = 180  # six months
TARGETS = {
    "six_month_death": ("death within six months", "alive after six months"),
    "hospital_death": ("death in hospital", "discharged alive"),
}
COLUMNS = (
    *("id", "hospdead", "death", "d.time", "prg6m"),
    *(field.name for fields in GROUPS.values() for field in fields),
)
RENAMED = {"": "id"}  # the rows' numbers stand under no name


def load_support2(
    root: str | Path, target: str = "six_month_death", *, bad: BadRows | None = None
) -> tuple[list[Patient], Task]:
    """All patients, and the task of foreseeing a death:

    six_month_death   within 180 days. Unknown for a patient who was alive when last seen, before that.
                      `Patient.estimate` is what the physician stated on day 3, where one did.
    hospital_death    before the end of this stay.

    Prevalence is that of the study, whose patients were chosen for being seriously ill. Raises DataError
    naming file, row and column of every row that cannot be read, unless `bad` is to skip them.
    """
    if target not in TARGETS:
        raise Refusal(f"load_support2: target is {target!r}, expected one of {', '.join(TARGETS)}")
    root, bad = Path(root), bad or BadRows()
    patients: list[Patient] = []
    seen: dict[str, str] = {}
    for row in read_table(find_table(root, "support2"), COLUMNS, RENAMED, bad=bad):
        with bad.row():
            patients.append(_patient(row, target, seen))
    bad.check()
    task = Task(
        modalities=tuple(Modality(name, "values", fields=fields) for name, fields in GROUPS.items()),
        classes=TARGETS[target],
        prevalence=prevalence(patients, TARGETS[target], EXCLUSIVE),
    )
    return patients, task


def verify(root: str | Path) -> dict[str, int | dict[str, int]]:
    """What is there, counted."""
    patients, _ = load_support2(root, bad=BadRows(skip=True))
    values = [observed for patient in patients for observed in patient.modalities.values()]
    return {
        "physicians' estimates": sum(bool(patient.estimate) for patient in patients),
        "values": dict(Counter(name for of in values if isinstance(of, Mapping) for name in of)),
    }


def _patient(row: Row, target: str, seen: dict[str, str]) -> Patient:
    """The patient of a row; `seen` holds those so far and where they stand."""
    id = row.name("id")
    if not id:
        raise row.error("id", "expected a number of the row")
    first = seen.setdefault(canonical(id), row.source)
    if first != row.source:
        raise row.error("id", f"expected each patient once ({first})")
    dies = row.flag("hospdead") if target == "hospital_death" else _dies_in_six_months(row)
    death, life = TARGETS[target]
    survival = row.number("prg6m", 0, 1) if target == "six_month_death" else None
    return Patient(
        id=id,
        modalities={name: _values(row, fields) for name, fields in GROUPS.items()},
        labels={} if dies is None else {death if dies else life: True},
        estimate={} if survival is None else {death: 1 - survival, life: survival},
        source=row.source,
        age=row.number("age", *LIMITS["age"]),
    )


def _values(row: Row, fields: tuple[Field, ...]) -> Observation | None:
    values = {field.name: _value(row, field) for field in fields}
    return {name: value for name, value in values.items() if value is not None} or None


def _value(row: Row, field: Field) -> float | str | None:
    if field.categories:
        return row.one_of(field.name, {category: category for category in field.categories})
    return row.number(field.name, *LIMITS.get(field.name, (0, math.inf)))


def _dies_in_six_months(row: Row) -> bool | None:
    """d.time counts the days to the death, or to when a living patient was last seen."""
    dead, days = row.flag("death"), row.number("d.time", 0, math.inf)
    if dead is None or days is None or (not dead and days < DAYS):
        return None
    return dead and days <= DAYS
