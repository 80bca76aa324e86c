"""IU X-ray (Indiana University, Open-i): chest radiographs, frontal and lateral, with their reports.

    indiana_projections.csv       which image is of which study, from where it was taken
    indiana_reports.csv           the reports as a table, or as XML: see `openi`
    images/images_normalized/1_IM-0001-4001.dcm.png, or CXR1_1_IM-0001-4001.png, wherever below the root

One `Patient` is one study: the first frontal and the first lateral image, and the texts of `openi`, whose
warning about the label holds here too: for a diagnosis hide `report`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.sources.openi import CLASSES, TEXTS, Study, stream_studies, words
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.tables.read import find_table, read_table
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE

VIEWS = {"Frontal": "frontal", "Lateral": "lateral"}
REPORTS = ("uid", "MeSH", "indication", "findings", "impression")
PROJECTIONS = ("uid", "filename", "projection")
PICTURE = re.compile(r"(?:CXR\d+_)?(.+?)(?:\.dcm)?\.(?:png|jpg|jpeg|dcm)", re.IGNORECASE)


def load_iu_xray(
    root: str | Path,
    image_size: int = 64,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """All studies, and the task of telling a normal one from another. An image that is listed but not there
    is absent. Decoded images are kept in `cache`, if given; never under the data.

    Raises DataError naming the file, and row and column, of everything that cannot be read, unless `bad` is
    to skip it.
    """
    root, bad = Path(root), bad or BadRows()
    views = {view: Modality(view, "image", (1, image_size, image_size)) for view in VIEWS.values()}
    studies = {study.id: study for study in _studies(root, bad)}
    chosen = _projections(root, studies, bad)
    files = _pictures(root)
    patients = []
    for study in studies.values():
        images = dict.fromkeys(views, None) | {
            view: ImageFile(str(files[picture]), views[view], f"{study.source}: {files[picture].name}", kept)
            for view, picture in chosen.get(study.id, {}).items()
            if picture in files
            for kept in (Path(cache) if cache else None,)
        }
        patients.append(Patient(study.id, images | study.texts(), study.labels(), source=study.source))
    bad.check()
    task = Task((*views.values(), *TEXTS), CLASSES, prevalence(patients, CLASSES, EXCLUSIVE))
    return patients, task


def verify(root: str | Path) -> dict[str, int]:
    """What is there, counted."""
    root, bad = Path(root), BadRows(skip=True)
    studies = {study.id: study for study in _studies(root, bad)}
    rows = Counter(row.cells["projection"] for row in _rows(root, bad))
    chosen = _projections(root, studies, BadRows(skip=True))
    return {
        "reports": len(studies),
        **{f"{view.lower()} images listed": rows[view] for view in VIEWS},
        "images present": len(_pictures(root)),
        "studies with both views": sum(len(views) == len(VIEWS) for views in chosen.values()),
    }


def _studies(root: Path, bad: BadRows) -> Iterable[Study]:
    if not any(root.glob("indiana_reports.*")):
        yield from stream_studies(root, bad=bad)
        return
    seen: dict[str, str] = {}
    for row in read_table(find_table(root, "indiana_reports"), REPORTS, bad=bad):
        study = None
        with bad.row():
            id = f"CXR{row.name('uid')}"
            if seen.setdefault(id, row.source) != row.source:
                raise row.error("uid", f"expected each study once ({seen[id]})")
            sections = {name: words(row.cells[name]) for name in REPORTS[2:]}
            study = Study(
                id=id,
                sections={name: text for name, text in sections.items() if text},
                coded=tuple(row.cells["MeSH"].split(";")),
                images=(),
                source=row.source,
            )
        if study is not None:
            yield study


def _rows(root: Path, bad: BadRows) -> Iterable[Row]:
    return read_table(find_table(root, "indiana_projections"), PROJECTIONS, bad=bad)


def _projections(root: Path, studies: dict[str, Study], bad: BadRows) -> dict[str, dict[str, str]]:
    """The first picture of each view, by study."""
    chosen: dict[str, dict[str, str]] = {}
    for row in _rows(root, bad):
        with bad.row():
            study = studies.get(f"CXR{row.name('uid')}")
            if study is None:
                raise row.error("uid", "which has no report, expected that of one")
            view, picture = row.one_of("projection", VIEWS), _picture(row.name("filename"))
            if view is None or picture is None:
                column = "projection" if view is None else "filename"
                raise row.error(column, f"expected {' or '.join(VIEWS) if view is None else 'a picture'}")
            listed = [_picture(f"{image}.png") for image in study.images]
            if listed and picture not in listed:
                raise row.error("filename", f"which is no image of {study.id} by its report ({study.source})")
            chosen.setdefault(study.id, {}).setdefault(view, picture)
    return chosen


def _pictures(root: Path) -> dict[str, Path]:
    """Every picture below the root, by the id of its image."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        picture = _picture(path.name)
        if picture is None or not path.is_file():
            continue
        if picture in found:
            raise DataError(f"{path}: is {picture}, as is {found[picture]}, expected one of them")
        found[picture] = path
    return found


def _picture(name: str) -> str | None:
    """The id in a picture's name, as both forms of the collection have it; None for another file."""
    match = PICTURE.fullmatch(name)
    return match[1] if match else None
