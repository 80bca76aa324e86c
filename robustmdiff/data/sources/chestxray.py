"""The COVID-19 image data collection (Cohen et al., arXiv:2006.11988): metadata.csv + images/.

One `Patient` is one image with what its row says at that time, not one person: age, labs,
notes and even the finding change between a person's images (seven people here go from "No
Finding" to COVID-19), and merging them would show a model the future. `Patient.group` holds
the person, and splits keep a group together.

To a model go the image, the masked note and the measured values. Never: url, filename, doi,
location, date, other_notes (they name the source or the answer), RT_PCR_positive (the answer),
survival, intubated, went_icu and the like (what came later).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.diagnosis_words import mask_diagnosis
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.tables.read import find_table, read_table
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical

REQUIRED = (
    "patientid",
    "offset",
    "sex",
    "age",
    "finding",
    "view",
    "modality",
    "filename",
    "url",
    "clinical_notes",
)
OPTIONAL = (
    *("RT_PCR_positive", "survival", "intubated", "intubation_present", "went_icu", "in_icu"),
    *("needed_supplemental_O2", "extubated", "temperature", "pO2_saturation", "leukocyte_count"),
    *(
        "neutrophil_count",
        "lymphocyte_count",
        "date",
        "location",
        "folder",
        "doi",
        "license",
        "other_notes",
        "",
    ),
)
# Names of earlier releases.
RENAMED = {
    "Patientid": "patientid",
    "clinical notes": "clinical_notes",
    "other notes": "other_notes",
    "wbc_count": "leukocyte_count",
    "wbc count": "leukocyte_count",
    "leukocyte count": "leukocyte_count",
    "neutrophil count": "neutrophil_count",
    "lymphocyte count": "lymphocyte_count",
    "pO2 saturation": "pO2_saturation",
}
# Releases before June 2020 write the last node alone; later ones write the path.
PATHS = {
    path.rsplit("/", 1)[-1].lower(): path
    for path in (
        *("Pneumonia/Viral/COVID-19", "Pneumonia/Viral/SARS", "Pneumonia/Viral/MERS-CoV"),
        *("Pneumonia/Viral/Influenza", "Pneumonia/Viral/Varicella", "Pneumonia/Viral/Herpes"),
        *("Pneumonia/Bacterial", "Pneumonia/Bacterial/Streptococcus", "Pneumonia/Bacterial/Klebsiella"),
        *("Pneumonia/Bacterial/Legionella", "Pneumonia/Bacterial/Mycoplasma", "Pneumonia/Bacterial/E.Coli"),
        *("Pneumonia/Bacterial/Chlamydophila", "Pneumonia/Bacterial/Nocardia"),
        *("Pneumonia/Fungal/Pneumocystis", "Pneumonia/Fungal/Aspergillosis", "Pneumonia/Lipoid"),
    )
} | {"mycoplasma bacterial pneumonia": "Pneumonia/Bacterial/Mycoplasma"}
VIEWS = ("PA", "AP", "AP Supine", "AP semi erect", "AP erect", "L", "Axial", "Coronal")
FIELDS = (
    Field("sex", categories=("F", "M")),
    Field("age", "years"),
    Field("view", categories=VIEWS),
    Field("temperature", "degC", (36.1, 37.8)),
    Field("SpO2", "%", (95, 100)),
    Field("pO2", "mmHg", (75, 100)),
    Field("leukocyte_count", "10^9/l", (4, 11)),
    Field("neutrophil_count", "10^9/l", (1.5, 7.7)),
    Field("lymphocyte_count", "10^9/l", (1.1, 4.0)),
)
TEACHING_FILES = ("radiopaedia.org", "eurorad.org")


class _Record(NamedTuple):
    """A row that has an image of ours, read but for the image itself."""

    row: Row
    path: tuple[str, ...]  # of the finding; empty: unknown
    image: Path
    site: str
    note: str | None
    masked: int
    values: dict[str, float | str]


def load_chestxray(
    root: str | Path,
    image_size: int = 64,
    level: int = 3,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """All images of the collection, and the task of telling apart the first `level` nodes of the
    finding path (1: Pneumonia, ARDS, No Finding; 2: Viral, Bacterial, ...; 3: COVID-19, ...).

    A row whose image file is not there has no image; volumes (.nii) are left out, and findings
    "todo" and "Unknown" are no label. Prevalence is that of the labelled rows, which is the
    collection's and nobody's population; classes of fewer than 20 rows are rare. Root may be
    read-only; decoded images are kept in `cache`, if given.

    Raises DataError naming file, row and column of every row that cannot be read, unless `bad` is to skip
    them.
    """
    if level < 1:
        raise Refusal(f"load_chestxray: level is {level}, expected 1 or more")
    bad = bad or BadRows()
    return _load(_records(Path(root), bad), image_size, cache, lambda path: "/".join(path[:level]), bad)


def covid_task(
    root: str | Path,
    image_size: int = 64,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """COVID-19 against other pneumonia, on X-rays of the two teaching-file sources.

    The only fair question of this collection: every other source holds one of the two classes,
    so that recognising the source answers it. CT is left out for the same reason: there all of
    it is COVID-19. `Patient.site` is the source, for a source-only baseline.
    """
    bad = bad or BadRows()
    records = [
        record
        for record in _records(Path(root), bad)
        if record.site in TEACHING_FILES
        and record.path[:1] == ("Pneumonia",)
        and record.row.cells["modality"].lower() != "ct"
    ]
    patients, task = _load(
        records, image_size, cache, lambda path: "COVID-19" if "COVID-19" in path else "other pneumonia", bad
    )
    return patients, replace(task, modalities=tuple(m for m in task.modalities if m.name != "ct"))


def verify(root: str | Path, level: int = 3) -> dict[str, int | dict[str, int]]:
    """What is there, counted: compare it with what you expect before training."""
    root = Path(root)
    records = list(_records(root, BadRows(skip=True)))
    labs = {field.name for field in FIELDS} - {"sex", "age", "view"}
    return {
        "rows": sum(1 for _ in _rows(root, BadRows(skip=True))),
        "images listed": len(records),
        "images present": sum(record.image.is_file() for record in records),
        "patients": len({record.row.cells["patientid"] for record in records}),
        "x-ray": sum(record.row.cells["modality"].lower() != "ct" for record in records),
        "ct": sum(record.row.cells["modality"].lower() == "ct" for record in records),
        "notes": sum(record.note is not None for record in records),
        "notes emptied by masking": sum(record.note == "" for record in records),
        "notes with masked words": sum(record.masked > 0 for record in records),
        "masked words": sum(record.masked for record in records),
        "rows with a lab or vital": sum(bool(labs & record.values.keys()) for record in records),
        "values": dict(Counter(name for record in records for name in record.values)),
        "classes": dict(Counter("/".join(record.path[:level]) for record in records).most_common()),
        "sites": dict(Counter(record.site for record in records).most_common()),
    }


def _load(
    records: Iterable[_Record],
    image_size: int,
    cache: str | Path | None,
    name_of: Callable[[tuple[str, ...]], str],
    bad: BadRows,
) -> tuple[list[Patient], Task]:
    shape = (1, image_size, image_size)
    images = {
        "xray": Modality("xray", "image", shape=shape, cost=1.0),
        "ct": Modality("ct", "image", shape=shape, cost=5.0),
    }
    patients: list[Patient] = []
    seen: dict[str, str] = {}
    for record in records:
        with bad.row():
            patients.append(_patient(record, images, Path(cache) if cache else None, name_of, seen))
    bad.check()
    count = Counter(name for patient in patients for name in patient.labels)
    if not count:
        raise DataError("metadata.csv: no row of this task has a known finding, expected at least one")
    classes = tuple(sorted(count, key=lambda name: (-count[name], name)))
    task = Task(
        modalities=(
            *images.values(),
            Modality("notes", "text", cost=0.5),
            Modality("structured", "values", fields=FIELDS, cost=0.5),
        ),
        classes=classes,
        prevalence=prevalence(patients, classes, EXCLUSIVE),
        rare=tuple(name for name in classes if count[name] < 20),
    )
    return patients, task


def _patient(
    record: _Record,
    images: Mapping[str, Modality],
    cache: Path | None,
    name_of: Callable[[tuple[str, ...]], str],
    seen: dict[str, str],
) -> Patient:
    """The patient of a record; `seen` holds the ids so far and where they stand."""
    row = record.row
    where = f"{row.source}, column 'filename'"
    name = "ct" if row.cells["modality"].lower() == "ct" else "xray"
    picture = None
    if record.image.is_file():
        picture = ImageFile(str(record.image), images[name], f"{where}: {record.image.name}", cache)
    person = row.cells["patientid"]
    id = f"{person}/{row.cells['offset']}/{row.cells['filename']}"
    first = seen.setdefault(canonical(id), row.source)
    if first != row.source:
        raise DataError(f"{where}: {id!r} is there already ({first}), expected each image once per patient")
    age = record.values.get("age")
    return Patient(
        id=id,
        modalities={
            name: picture,
            "notes": record.note,
            "structured": record.values or None,
        },
        labels={name_of(record.path): True} if record.path else {},
        source=row.source,
        site=record.site,
        age=age if isinstance(age, float) else None,
        group=person,
    )


def _rows(root: Path, bad: BadRows) -> Iterable[Row]:
    path = find_table(root, "metadata")
    return read_table(path, REQUIRED, RENAMED, allowed=(*REQUIRED, *OPTIONAL), bad=bad)


def _records(root: Path, bad: BadRows) -> Iterator[_Record]:
    for row in _rows(root, bad):
        record = None
        with bad.row():
            record = _record(root, row)
        if record is not None:
            yield record


def _record(root: Path, row: Row) -> _Record | None:
    """What a row says; None for a volume."""
    cells = row.cells
    row.one_of("modality", {"x-ray": "xray", "ct": "ct"})
    for column in ("patientid", "filename", "modality"):
        if not row.name(column):
            raise row.error(column, "expected something")
    if cells.get("folder", "") == "volumes" or cells["filename"].endswith((".nii", ".nii.gz")):
        return None
    site = _site(row)
    note, masked = mask_diagnosis(cells["clinical_notes"]) if cells["clinical_notes"] else (None, 0)
    return _Record(
        row=row,
        path=_path(cells["finding"]),
        image=root / (cells.get("folder") or "images") / cells["filename"],
        site=site,
        note=note,
        masked=masked,
        values=_values(row, site),
    )


def _path(finding: str) -> tuple[str, ...]:
    """("Pneumonia", "Viral", "COVID-19"), for either way of writing it; () if unknown. Of several
    findings in one cell ("COVID-19, ARDS") the first names the cause."""
    first = finding.split(",")[0].strip()
    if first.lower() in ("", "todo", "unknown"):
        return ()
    return tuple(PATHS.get(first.lower(), first).split("/"))


def _site(row: Row) -> str:
    if "covid-19-image-repository" in row.cells["url"] or "hannover" in row.cells.get("location", "").lower():
        return "hannover"
    return urlparse(row.cells["url"]).netloc.removeprefix("www.") or "unknown"


def _values(row: Row, site: str) -> dict[str, float | str]:
    oxygen = row.number("pO2_saturation", 0, 800 if site == "hannover" else 100)
    values = {
        "sex": row.one_of("sex", {"f": "F", "m": "M"}),
        "age": row.number("age", 0, 120),
        "view": row.one_of("view", {view.lower(): view for view in VIEWS}),
        "temperature": row.number("temperature", 30, 45),
        # The column is a saturation in %, but Hannover's rows hold a partial pressure in mmHg.
        "pO2" if site == "hannover" else "SpO2": oxygen,
        "leukocyte_count": row.number("leukocyte_count", 0, 500),
        "neutrophil_count": row.number("neutrophil_count", 0, 500),
        "lymphocyte_count": row.number("lymphocyte_count", 0, 500),
    }
    return {name: value for name, value in values.items() if value is not None}
