"""A folder of one's own data: task.json says what there is, patients.csv who.

    mydata/
      task.json        modalities, classes (task.yaml works too)
      patients.csv     one row per record (.csv.gz works too)
      images/p1.png    wherever the table points

Columns of patients.csv (UTF-8, a blank cell is "absent" or "unknown"):

    id               distinct; required
    group            the person, where one has several records; splits keep a group together
    split            "train", "calibration", "test", if you have your own split
    site, age        what missingness may depend on
    label            the class, for a single-label task; or, for any task, one column per class:
    label:NAME       1 or 0 (a blank is unknown)
    finding:NAME     1 or 0
    xray             an image modality: a path relative to the folder, of a picture, a DICOM file or
                     folder, a NIfTI volume or an .npy array (docs/data.md says how each is decoded)
    notes            a text modality: the text itself, or instead of it
    notes_file       a path to a UTF-8 file (an empty file is an empty text, a blank cell no text)
    structured.crp   a value modality: one column per field, a number or a category

Every declared modality and field must have its column, and every column must be known, so that
a renamed column is an error and never a silent gap; list columns to skip under "ignore" in
task.json. The keys of task.json are the fields of `Task`, `Modality` and `Field`; "prevalence"
may be left out and is then counted from the labels. `write_template` writes an example.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.files import Row, find_table, read_header, read_table, write_whole
from robustmdiff.data.modality import Modality, Task
from robustmdiff.data.patient import DataError, Observation, Patient
from robustmdiff.data.pictures import read_image
from robustmdiff.data.raster import Unreadable
from robustmdiff.data.splits import Split
from robustmdiff.data.task_file import read_task_file, task_from

OWN = ("id", "group", "split", "site", "age", "label")
DARK = 4096 / 65535  # of a window
YES_NO = {"0": "", "1": "yes"}


def load_folder(root: str | Path, cache: str | Path | None = None) -> tuple[list[Patient], Task]:
    """All records of the folder, in the table's order, and their task. Decoded images are kept in
    `cache`, if given. Raises DataError naming file, row and column."""
    root = Path(root)
    task, ignore = _task(root)
    patients: list[Patient] = []
    seen: dict[str, str] = {}
    for row in _rows(root, task, ignore):
        id = row.cells["id"]
        if not id or id in seen:
            raise row.error("id", f"expected one not used before ({seen[id]})" if id else "expected an id")
        seen[id] = row.source
        patients.append(
            Patient(
                id=id,
                modalities={m.name: _observation(root, row, m, cache) for m in task.modalities},
                labels=_labels(row, task),
                findings=_flags(row, "finding", task.findings),
                source=row.source,
                site=row.cells.get("site") or None,
                age=row.number("age", 0, 150),
                group=row.cells.get("group", ""),
            )
        )
    if not patients:
        raise DataError(f"{root}: patients.csv has no row, expected at least one patient")
    for modality in task.modalities:
        _warn_if_dark(patients, modality)
    return patients, task


def folder_split(root: str | Path) -> Split | None:
    """The split that the column `split` declares; None where there is none."""
    root = Path(root)
    task, ignore = _task(root)
    split: dict[str, list[str]] = {}
    side: dict[str, tuple[str, str]] = {}
    for row in _rows(root, task, ignore):
        name = row.cells.get("split")
        if not name:
            continue
        person = row.cells.get("group") or row.cells["id"]
        other, first = side.setdefault(person, (name, row.source))
        if other != name:
            raise row.error("split", f"expected {other!r} as in {first}, the same person {person!r}")
        split.setdefault(name, []).append(row.cells["id"])
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


def _task(root: Path) -> tuple[Task, list[str]]:
    path = next(
        (root / name for name in ("task.json", "task.yaml", "task.yml") if (root / name).is_file()), None
    )
    if path is None:
        raise DataError(f"{root}: has no task.json or task.yaml; write_template shows one")
    read = read_task_file(path)
    ignore = [str(name) for name in read.pop("ignore", [])]
    classes = read.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise DataError(f"{path.name}: classes is {classes!r}, expected a list of names")
    task = task_from(read, path.name, prevalence=tuple(1 / len(classes) for _ in classes))
    for name in task.modality_names:
        if name in OWN:
            raise DataError(f"{path.name}: a modality is named {name!r}, which is a column of its own")
    if "prevalence" not in read:
        labels = [_labels(row, task) for row in _rows(root, task, ignore)]
        task = task_from(read, path.name, prevalence=_prevalence(labels, task))
    return task, ignore


def _prevalence(labels: list[dict[str, bool]], task: Task) -> tuple[float, ...]:
    """Of each class among the records that know it; even odds where none does."""
    if task.multilabel:
        known = [[label[name] for label in labels if name in label] for name in task.classes]
        return tuple(sum(holds) / len(holds) if holds else 0.5 for holds in known)
    count = [sum(label.get(name, False) for label in labels) for name in task.classes]
    return tuple(n / sum(count) if sum(count) else 1 / len(count) for n in count)


def _rows(root: Path, task: Task, ignore: list[str]) -> Iterable[Row]:
    path = find_table(root, "patients")
    header = read_header(path)
    required = ["id"]
    for modality in task.modalities:
        if modality.kind == "values":
            required += [f"{modality.name}.{field.name}" for field in modality.fields]
        elif modality.kind == "text" and f"{modality.name}_file" in header:
            required.append(f"{modality.name}_file")
            if modality.name in header:
                raise DataError(
                    f"{path.name}:1: columns {modality.name!r} and '{modality.name}_file' are both there, "
                    "expected one of them"
                )
        else:
            required.append(modality.name)
    allowed = [*required, *OWN, *ignore]
    allowed += [f"label:{name}" for name in task.classes] + [f"finding:{name}" for name in task.findings]
    return read_table(path, required, allowed=allowed)


def _labels(row: Row, task: Task) -> dict[str, bool]:
    labels = _flags(row, "label", task.classes)
    named = row.cells.get("label", "")
    if named:
        if named not in task.classes:
            raise row.error("label", f"expected one of {', '.join(task.classes)}, or nothing")
        if labels.get(named) is False:
            raise row.error(f"label:{named}", f"expected 1 as in column 'label' ({named!r})")
        labels[named] = True
    true = [name for name, holds in labels.items() if holds]
    if len(true) > 1 and not task.multilabel:
        raise DataError(
            f'{row.source}: labels {true} all hold, expected one (or "multilabel": true in task.json)'
        )
    return labels


def _flags(row: Row, what: str, names: Iterable[str]) -> dict[str, bool]:
    flags = {name: row.one_of(f"{what}:{name}", YES_NO) for name in names}
    return {name: flag == "yes" for name, flag in flags.items() if flag is not None}


def _observation(root: Path, row: Row, modality: Modality, cache: str | Path | None) -> Observation | None:
    if modality.kind == "values":
        return _panel(row, modality) or None
    if modality.kind == "text":
        column = f"{modality.name}_file"
        if column not in row.cells:
            return row.cells[modality.name] or None
        if not row.cells[column]:
            return None
        try:
            return (root / row.cells[column]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise row.error(column, f"which cannot be read ({error}), expected a UTF-8 file") from error
    if not row.cells[modality.name]:
        return None
    path = root / row.cells[modality.name]
    if not path.exists():
        raise row.error(modality.name, f"expected a file under {root}, or nothing")
    try:
        return torch.from_numpy(read_image(path, modality, Path(cache) if cache else None))
    except Unreadable as error:
        raise row.error(modality.name, f"which {error}") from error


def _warn_if_dark(patients: list[Patient], modality: Modality) -> None:
    """Where all of a modality lies in the lowest sixteenth of its window, as 12-bit counts do in 16 bits:
    nothing is guessed from it, but its user should look."""
    images = [
        p.modalities[modality.name] for p in patients if modality.kind == "image" and p.has(modality.name)
    ]
    if not images:
        return
    low, high = modality.low_high
    most = max(float(image.max()) for image in images if isinstance(image, Tensor))
    if (most - low) / (high - low) <= DARK:
        warnings.warn(
            f"modality {modality.name!r}: none of {len(images)} images exceeds {most:.3g} in its window "
            f'[{low:g}, {high:g}]; is another window meant, or "bits": 12?',
            stacklevel=3,
        )


def _panel(row: Row, modality: Modality) -> dict[str, float | str]:
    panel: dict[str, float | str] = {}
    for field in modality.fields:
        column = f"{modality.name}.{field.name}"
        if field.categories:
            choices = {category.lower(): category for category in field.categories}
            value: float | str | None = row.one_of(column, choices)
        else:
            value = row.number(column, -math.inf, math.inf)
            if value is not None and not math.isfinite(value):
                raise row.error(column, "expected a finite number, or nothing")
        if value is not None:
            panel[field.name] = value
    return panel
