"""A folder of one's own data: task.json says what there is, patients.csv who.

    mydata/
      task.json        modalities, classes (task.yaml works too)
      patients.csv     one row per record (.csv.gz, .xlsx and .parquet work too)
      images/p1.png    wherever the table points

Columns of patients.csv (UTF-8, a blank cell is "absent" or "unknown"; docs/data.md says what a cell
may be):

    id               distinct; required
    group            the person, where one has several records; splits keep a group together
    split            "train", "calibration", "test", if you have your own split
    site, age        what missingness may depend on
    label            the class, for a single-label task; or, for any task, one column per class:
    label:NAME       1 or 0 (a blank is unknown, and so is -1 unless task.json has "uncertain":
                     "positive" or "negative")
    finding:NAME     the same
    xray             an image modality: a path relative to the folder, of a picture, a DICOM file or
                     folder, a NIfTI volume or an .npy array (docs/data.md says how each is decoded)
    notes            a text modality: the text itself, or instead of it
    notes_file       a path to a UTF-8 file (an empty file is an empty text, a blank cell no text)
    structured.crp   a value modality: one column per field, a number (<0.5 is read as 0.5, and
                     counted in a warning) or a category

Every declared modality and field must have its column, and every column must be known, so that
a renamed column is an error and never a silent gap; list columns to skip under "ignore" in
task.json. The keys of task.json are the fields of `Task`, `Modality` and `Field`; "prevalence"
may be left out and is then counted from the labels. `write_template` writes an example.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.kinds import KINDS
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.splits import Split
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import MISSING, Row
from robustmdiff.data.tables.read import find_table, read_header, read_table
from robustmdiff.data.task import Task
from robustmdiff.data.task_file import names_from, read_task_file, task_from
from robustmdiff.spelling import canonical, match
from robustmdiff.whole import write_whole

OWN = ("id", "group", "split", "site", "age", "label")
DARK = 4096 / 65535  # of a window
LOOKED_AT = 8  # images of each modality, when a folder is loaded
SPLITS = ("train", "calibration", "test")
UNCERTAIN = {"unknown": None, "positive": True, "negative": False}


class Columns(NamedTuple):
    """How a table is to be read: columns to skip, and what -1 in a flag says."""

    ignore: Sequence[str]
    uncertain: bool | None


def load_folder(
    root: str | Path, cache: str | Path | None = None, *, bad: BadRows | None = None
) -> tuple[list[Patient], Task]:
    """All records of the folder, in the table's order, and their task. Images are decoded when they are
    asked for (`pictures.read.ImageFile`), and kept in `cache`, if given. Raises DataError naming file, row
    and column of every row that cannot be read, unless `bad` is to skip them."""
    root = Path(root)
    task, _, counted = _task(root)
    patients = list(_patients(root, Path(cache) if cache else None, bad or BadRows()))
    if counted:
        task = replace(task, prevalence=prevalence(patients, task.classes, task.labels))
    for modality in task.modalities:
        _warn_if_dark(patients, modality)
    return patients, task


def stream_folder(root: str | Path, *, bad: BadRows | None = None) -> Iterator[Patient]:
    """The records of `load_folder` one by one: of a table of any length only the ids stay in memory. What
    cannot be read is told, and whether images are dark is looked at in the first ones, when all rows have
    been read."""
    root = Path(root)
    first: list[Patient] = []
    for patient in _patients(root, None, bad or BadRows()):
        if len(first) < LOOKED_AT:
            first.append(patient)
        yield patient
    for modality in folder_task(root).modalities:
        _warn_if_dark(first, modality)


def _patients(root: Path, cache: Path | None, bad: BadRows) -> Iterator[Patient]:
    task, columns, _ = _task(root)
    seen: dict[str, str] = {}
    nobody = True
    for row in _rows(root, task, columns, bad):
        with bad.row():
            id = row.name("id")
            if not id:
                raise row.error("id", "expected an id")
            first = seen.setdefault(canonical(id), row.source)
            if first != row.source:
                raise row.error("id", f"expected one not used before ({first})")
            yield patient_of(row, task, root, columns, cache)
            nobody = False
    bad.check()
    if nobody:
        raise DataError(f"{find_table(root, 'patients')} has no row, expected at least one patient")


def patient_of(row: Row, task: Task, root: Path, columns: Columns, cache: Path | None = None) -> Patient:
    """The patient of a row whose files lie under `root`; a column that is not there is blank."""
    return Patient(
        id=row.name("id"),
        modalities={m.name: KINDS[m.kind].read(row, m, root, cache) for m in task.modalities},
        labels=_labels(row, task, columns),
        findings=_flags(row, "finding", task.findings, columns),
        source=row.source,
        site=canonical(row.name("site")) or None,
        age=row.measured("age", 0, 150),
        group=row.name("group"),
    )


def columns_of(task: Task) -> list[str]:
    """Every column that a table of this task may have."""
    return [*OWN, *_observed(task.modalities), *_flag_columns(task)]


def _observed(modalities: Iterable[Modality]) -> list[str]:
    return [column for m in modalities for either in KINDS[m.kind].columns(m) for column in either]


def _flag_columns(task: Task) -> list[str]:
    return [f"label:{name}" for name in task.classes] + [f"finding:{name}" for name in task.findings]


def folder_task(root: str | Path) -> Task:
    """What task.json says, before anything else is read: a prevalence that is to be counted is still even."""
    return _task(Path(root))[0]


def folder_split(root: str | Path, *, bad: BadRows | None = None) -> Split | None:
    """The split that the column `split` declares; None where there is none. Raises DataError for rows that
    put one person on two sides, unless `bad` is to skip them."""
    root, bad = Path(root), bad or BadRows()
    task, columns, _ = _task(root)
    split: dict[str, list[str]] = {}
    side: dict[str, tuple[str, str]] = {}
    for row in _rows(root, task, columns, bad):
        with bad.row():
            name = row.name("split")
            if not name:
                continue
            name = match(name, SPLITS) or canonical(name)
            person = canonical(row.name("group") or row.name("id"))
            other, first = side.setdefault(person, (name, row.source))
            if other != name:
                raise row.error("split", f"expected {other!r} as in {first}, the same person {person!r}")
            split.setdefault(name, []).append(row.name("id"))
    bad.check()
    return {name: tuple(ids) for name, ids in split.items()} or None


def write_template(root: str | Path) -> None:
    """Writes a working example of three patients with gaps. Never overwrites."""
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise DataError(f"{root}: is not empty, expected a new folder for the template")
    task = {
        "modalities": [
            {"name": "xray", "kind": "image", "shape": [1, 64, 64]},
            {"name": "notes", "kind": "text"},
            {
                "name": "structured",
                "kind": "values",
                "fields": [
                    {"name": "crp", "unit": "mg/l", "reference": [0, 5]},
                    {"name": "sex", "categories": ["F", "M"]},
                ],
            },
        ],
        "classes": ["pneumonia", "no pneumonia"],
        "findings": ["fever"],
    }
    table = (
        "id,group,split,site,age,label,finding:fever,xray,notes,structured.crp,structured.sex\n"
        "p1,,train,north,61,pneumonia,1,images/p1.npy,Cough for three days.,84,F\n"
        'p2,,train,north,,no pneumonia,0,,"Routine check, no complaints.",,M\n'
        "p3,,test,south,47,pneumonia,,images/p3.npy,,112.5,\n"
    )
    for name, brightness in (("p1", 0.25), ("p3", 0.75)):
        (root / "images").mkdir(parents=True, exist_ok=True)
        np.save(root / "images" / f"{name}.npy", np.full((1, 64, 64), brightness, np.float32))
    write_whole(root / "task.json", json.dumps(task, indent=2).encode())
    write_whole(root / "patients.csv", table.encode())


def states_prevalence(root: str | Path) -> bool:
    """Whether task.json says how frequent the classes are, so that nobody need count them."""
    _, _, counted = _task(Path(root))
    return not counted


def _task(root: Path) -> tuple[Task, Columns, bool]:
    """The task, how its table is to be read, and whether prevalence is yet to be counted there."""
    path = next(
        (root / name for name in ("task.json", "task.yaml", "task.yml") if (root / name).is_file()), None
    )
    if path is None:
        raise DataError(f"{root}: has no task.json or task.yaml; write_template shows one")
    read = read_task_file(path)
    ignore = list(names_from(read.pop("ignore", []), f"{path.name}: ignore"))
    uncertain = read.pop("uncertain", "unknown")
    if uncertain not in UNCERTAIN:
        raise DataError(f"{path.name}: uncertain is {uncertain!r}, expected one of {', '.join(UNCERTAIN)}")
    classes = read.get("classes")
    if not isinstance(classes, list) or not classes:
        raise DataError(f"{path.name}: classes is {classes!r}, expected a list of names")
    task = task_from(read, path.name, prevalence=tuple(1 / len(classes) for _ in classes))
    for m in task.modalities:
        if m.name in OWN or m.name in _observed(other for other in task.modalities if other is not m):
            raise DataError(f"{path.name}: a modality is named {m.name!r}, which is a column of its own")
    return task, Columns(ignore, UNCERTAIN[uncertain]), "prevalence" not in read


def _rows(root: Path, task: Task, columns: Columns, bad: BadRows) -> Iterator[Row]:
    path = find_table(root, "patients")
    header = {canonical(name) for name in read_header(path)}
    required, texts = ["id"], []
    for modality in task.modalities:
        for either in KINDS[modality.kind].columns(modality):
            there = [name for name in either if canonical(name) in header] or [either[0]]
            if len(there) > 1:
                both = " and ".join(map(repr, there))
                raise DataError(f"{path.name}:1: columns {both} are both there, expected one of them")
            required += there
            texts += [name for name in there if len(either) > 1 and name == either[0]]
    allowed = [*required, *OWN, *columns.ignore, *_flag_columns(task)]
    return read_table(path, required, allowed=allowed, texts=texts, bad=bad)


def _labels(row: Row, task: Task, columns: Columns) -> dict[str, bool]:
    labels = _flags(row, "label", task.classes, columns)
    if row.cells.get("label") not in MISSING - set(task.classes):
        named = row.one_of("label", {name: name for name in task.classes})
        if named is not None:
            if labels.get(named) is False:
                raise row.error(f"label:{named}", f"expected 1 as in column 'label' ({named!r})")
            labels[named] = True
    true = [name for name, holds in labels.items() if holds]
    if len(true) > 1 and task.labels.exclusive:
        raise DataError(
            f'{row.source}: labels {true} all hold, expected one (or "multilabel": true in task.json)'
        )
    return labels


def _flags(row: Row, what: str, names: Iterable[str], columns: Columns) -> dict[str, bool]:
    flags = {name: row.flag(f"{what}:{name}", columns.uncertain) for name in names}
    return {name: flag for name, flag in flags.items() if flag is not None}


def _warn_if_dark(patients: Sequence[Patient], modality: Modality) -> None:
    """Where all images of a modality, of a few looked at, lie in the lowest sixteenth of its window, as
    12-bit counts do in 16 bits: nothing is guessed from it, but its user should look."""
    stored = [patient.modalities[modality.name] for patient in patients]
    images = [image for image in stored if isinstance(image, ImageFile)]
    low, high = modality.low_high
    brightest: list[float] = []
    for image in images[:: max(1, len(images) // LOOKED_AT)][:LOOKED_AT]:
        with suppress(DataError):  # whoever needs this image will say so
            brightest.append(float(image.pixels().max()))
    most = max(brightest, default=high)
    if (most - low) / (high - low) <= DARK:
        warnings.warn(
            f"modality {modality.name!r}: none of {len(brightest)} images exceeds {most:.3g} in its window "
            f'[{low:g}, {high:g}]; is another window meant, or "bits": 12?',
            stacklevel=3,
        )
