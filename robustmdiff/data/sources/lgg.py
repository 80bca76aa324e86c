"""TCGA lower-grade glioma (Buda, Saha and Mazurowski 2019): data.csv + TCGA_<site>_<patient>_<date>/*.tif.

One `Patient` is one person: three MRI sequences, molecular views of the tumour, demographics.

A slice is one picture whose three channels are the sequences before contrast, FLAIR and after contrast.
Where a sequence was not made, the files hold a copy of FLAIR in its channel; it is absent here. The slices
are those in the middle of equal parts of the stack (`raster.central_slices`), chosen from their number alone:
the masks of the tumour (`*_mask.tif`) were drawn by people who looked for it, a label and no observation.

To a model go neither histology nor grade, whichever is asked (one look through a microscope gives both), nor
death, nor COCCluster: it is computed from other views, and would tell of one that is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Observation, Patient
from robustmdiff.data.pictures.raster import Unreadable, central_slices
from robustmdiff.data.pictures.read import read_image
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.tables.read import find_table, read_table
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical


def _coded(column: str, codes: int) -> Field:
    return Field(column, categories=tuple(str(code) for code in range(1, codes + 1)))


SEQUENCES = ("pre_contrast", "flair", "post_contrast")  # the channels of a slice
SLICES = 5
# Each assay of the tissue is a modality of its own: they are ordered, and fail, one by one.
ASSAYS = {
    "rna": _coded("RNASeqCluster", 4),
    "mirna": _coded("miRNACluster", 4),
    "methylation": _coded("MethylationCluster", 5),
    "copy_number": _coded("CNCluster", 3),
    "protein": _coded("RPPACluster", 4),
    "mutations": _coded("OncosignCluster", 3),  # of mutations and copy numbers
}
CLINIC = (
    Field("age", "years"),
    Field("sex", categories=("code 1", "code 2")),
    _coded("race", 3),
    _coded("ethnicity", 2),
    _coded("laterality", 3),
    _coded("tumor_location", 6),
)
AGE, SEX = "age_at_initial_pathologic", "gender"
# The file has no key, so codes keep their numbers: what we believe they stand for is in docs/data.md.
SEXES = {"1": "code 1", "2": "code 2"}
TARGETS = {
    "grade": ("neoplasm_histologic_grade", {"1": "grade code 1", "2": "grade code 2"}),
    "histology": ("histological_type", {code: f"histology code {code}" for code in "123"}),
}
COLUMNS = (
    *("Patient", AGE, SEX, "race", "ethnicity", "laterality", "tumor_location"),
    *(field.name for field in ASSAYS.values()),
    *(column for column, _ in TARGETS.values()),
)


def load_lgg(
    root: str | Path,
    target: str = "grade",
    image_size: int = 64,
    slices: int = SLICES,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """All patients, and the task of telling the grade of the tumour (of two) or its histology (of three).

    slices  of each sequence, the channels of its image
    cache   a folder for decoded slices; never under the data

    `Patient.site` is the hospital (DU, HT, CS, FG, EZ), for a split that leaves some out. A patient without
    the target has no label, one without a folder no images. Slices are read here, as only their pixels say
    which sequence is absent. Raises DataError naming file, row and column of every row that cannot be read,
    unless `bad` is to skip them.
    """
    if target not in TARGETS:
        raise Refusal(f"load_lgg: target is {target!r}, expected one of {', '.join(TARGETS)}")
    if slices < 1:
        raise Refusal(f"load_lgg: slices is {slices}, expected 1 or more")
    root, bad = Path(root), bad or BadRows()
    column, class_of = TARGETS[target]
    shape = (slices, image_size, image_size)
    task_modalities = (
        *(Modality(name, "image", shape=shape) for name in SEQUENCES),
        *(Modality(name, "values", fields=(field,)) for name, field in ASSAYS.items()),
        Modality("clinic", "values", fields=CLINIC),
    )
    folders = _folders(root)
    patients: list[Patient] = []
    seen: dict[str, str] = {}
    for row in read_table(find_table(root, "data"), COLUMNS, bad=bad):
        with bad.row():
            id = _id(row, seen)
            label = row.one_of(column, class_of)
            age = row.number(AGE, 0, 120)
            images = _images(row, folders.get(id), shape, Path(cache) if cache else None)
            patients.append(
                Patient(
                    id=id,
                    modalities={**images, **_assays(row), "clinic": _clinic(row, age) or None},
                    labels={label: True} if label else {},
                    source=row.source,
                    site=id.split("_")[1],
                    age=age,
                )
            )
    bad.check()
    classes = tuple(class_of.values())
    task = Task(task_modalities, classes, prevalence(patients, classes, EXCLUSIVE))
    return patients, task


def verify(root: str | Path) -> dict[str, int]:
    """What is there, counted; of the tumours, by their masks, those of which a chosen slice shows a part."""
    folders = [folder for several in _folders(Path(root)).values() for folder in several]
    return {
        "folders of slices": len(folders),
        "slices": sum(len(_slices(folder)) for folder in folders),
        "tumours in a chosen slice": sum(map(_shows_tumour, folders)),
    }


def _id(row: Row, seen: dict[str, str]) -> str:
    """The patient of a row; `seen` holds those so far and where they stand."""
    id = row.name("Patient")
    if not re.fullmatch(r"TCGA_[^_]+_[^_]+", id):
        raise row.error("Patient", "expected TCGA_<site>_<patient>")
    first = seen.setdefault(canonical(id), row.source)
    if first != row.source:
        raise row.error("Patient", f"expected each patient once ({first})")
    return id


def _folders(root: Path) -> dict[str, list[Path]]:
    """The folders of slices, by patient: their name is that and a date."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("TCGA_*")):
        found.setdefault(path.name.rpartition("_")[0], []).append(path)
    return found


def _images(
    row: Row, folders: list[Path] | None, shape: tuple[int, int, int], cache: Path | None
) -> dict[str, Observation | None]:
    """float32 [slices, height, width] of each sequence, None where it was not made."""
    if not folders:
        return dict.fromkeys(SEQUENCES)
    if len(folders) > 1:
        raise row.error("Patient", f"expected one folder of slices, there are {len(folders)}")
    whole = Modality("slice", "image", shape=(len(SEQUENCES), *shape[1:]))
    reading = folders[0]
    try:
        stack = []
        for reading in _chosen(folders[0], shape[0]):
            stack.append(read_image(reading, whole, cache))
    except Unreadable as error:
        raise DataError(f"{row.source}, column 'Patient': {reading.name} {error}") from error
    sequences = dict(zip(SEQUENCES, np.stack(stack, axis=1), strict=True))
    flair = sequences["flair"]
    return {
        name: None if name != "flair" and np.array_equal(image, flair) else image
        for name, image in sequences.items()
    }


def _chosen(folder: Path, count: int) -> list[Path]:
    """The slices in the middle of `count` equal parts, in the order of their numbers."""
    paths = _slices(folder)
    return [paths[i] for i in central_slices(len(paths), count)]


def _slices(folder: Path) -> list[Path]:
    """All slices of a folder in the order of their numbers, without the masks."""
    numbered = {}
    for path in folder.iterdir():
        if match := re.fullmatch(r".*_([0-9]+)\.tif", path.name):
            numbered[int(match[1])] = path
    return [path for _, path in sorted(numbered.items())]


def _shows_tumour(folder: Path) -> bool:
    """Whether a chosen slice does, by its mask; not where that cannot be read."""
    mask = Modality("mask", "image", shape=(1, 64, 64))
    with suppress(Unreadable):
        masks = [path.with_name(f"{path.stem}_mask.tif") for path in _chosen(folder, SLICES)]
        return any(read_image(path, mask).any() for path in masks)
    return False


def _assays(row: Row) -> dict[str, Observation | None]:
    cluster = {name: _code(row, field) for name, field in ASSAYS.items()}
    return {name: None if code is None else {ASSAYS[name].name: code} for name, code in cluster.items()}


def _clinic(row: Row, age: float | None) -> Mapping[str, float | str]:
    coded = {field.name: _code(row, field) for field in CLINIC if field.name not in ("age", "sex")}
    values = {"age": age, "sex": row.one_of(SEX, SEXES), **coded}
    return {name: value for name, value in values.items() if value is not None}


def _code(row: Row, field: Field) -> str | None:
    return row.one_of(field.name, {code: code for code in field.categories})
