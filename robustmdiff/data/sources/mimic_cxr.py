"""MIMIC-CXR (Johnson et al. 2019): chest radiographs, frontal and lateral, with their reports.

    mimic-cxr-2.0.0-metadata.csv.gz                  which image is of which study, from where it was taken
    mimic-cxr-2.0.0-chexpert.csv.gz                  the labels, if there
    mimic-cxr-2.0.0-split.csv.gz                     the published split, if there (`published_split`)
    files/p10/p10000032/s50414267/<dicom_id>.jpg     or .dcm
    files/p10/p10000032/s50414267.txt                or below mimic-cxr-reports/

One `Patient` is one study, `Patient.group` the person. Its frontal image is the first PA, else the first AP.
The labels were found in the report by a program (CheXpert): a diagnosis from `report` reads the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.sources.openi import words
from robustmdiff.data.splits import Split
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.tables.read import find_table, read_table
from robustmdiff.data.task import Task
from robustmdiff.labels import labels_of
from robustmdiff.spelling import canonical

NAME = "mimic-cxr-2.0.0-"
CLASSES = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture"),
    *("Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia"),
    *("Pneumothorax", "Support Devices"),
)
# Positions by preference; others (oblique, unknown) are neither view.
VIEWS = {"frontal": ("PA", "AP"), "lateral": ("LATERAL", "LL")}
PARTS = {"train": "train", "validate": "calibration", "test": "test"}
HEADING = re.compile(r"^[ \t]*([A-Z][A-Z ()/,-]+):", re.MULTILINE)
BLANK_LINE = re.compile(r"\n[ \t]*\n")
INDICATIONS = ("indication", "history", "clinical history", "reason for examination", "reason for exam")
SUFFIXES = (".jpg", ".dcm")


class _Study(NamedTuple):
    """The images of a study that say their view, in the table's order: (position, dicom_id)."""

    id: str
    person: str
    images: list[tuple[str, str]]
    source: str


def load_mimic_cxr(
    root: str | Path,
    image_size: int = 64,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """All studies, and the task of telling which of the 14 labels of CheXpert hold. A label that is uncertain
    or not mentioned is unknown. Images and reports that are not there are absent.

    Decoded images are kept in `cache`, if given; never under the data. Raises DataError naming file, row and
    column of every row that cannot be read, unless `bad` is to skip them.
    """
    root, bad = Path(root), bad or BadRows()
    views = {view: Modality(view, "image", (1, image_size, image_size)) for view in VIEWS}
    kept = Path(cache) if cache else None
    studies = _studies(root, bad)
    labels = _labels(root, studies, bad)
    patients = []
    for study in studies.values():
        with bad.row():
            patients.append(
                Patient(
                    id=study.id,
                    modalities={
                        **{view: _image(root, study, modality, kept) for view, modality in views.items()},
                        **_texts(root, study),
                    },
                    labels=labels.get(study.id, {}),
                    source=study.source,
                    group=study.person,
                )
            )
    bad.check()
    texts = (Modality("indication", "text", cost=0.5), Modality("report", "text"))
    shares = prevalence(patients, CLASSES, labels_of(multilabel=True))
    return patients, Task((*views.values(), *texts), CLASSES, shares, multilabel=True)


def published_split(root: str | Path) -> Split:
    """The studies of each part, for `splits.save_split`; "validate" calibrates. Raises DataError for a study
    in two parts."""
    part_of: dict[str, tuple[str, str]] = {}
    for row in _table(Path(root), "split", ("study_id", "split")):
        part = row.one_of("split", PARTS)
        if part is None:
            raise row.error("split", f"expected one of {', '.join(PARTS)}")
        other, first = part_of.setdefault(f"s{row.name('study_id')}", (part, row.source))
        if other != part:
            raise row.error("split", f"expected that of the same study before ({first})")
    return {part: tuple(id for id, (own, _) in part_of.items() if own == part) for part in PARTS.values()}


def verify(root: str | Path) -> dict[str, int]:
    """What is there, counted."""
    root = Path(root)
    studies = _studies(root, BadRows(skip=True)).values()
    return {
        "studies": len(studies),
        "people": len({study.person for study in studies}),
        "images of a known view": sum(len(study.images) for study in studies),
        **{
            f"studies with a {view} image here": sum(
                _file(root, study, view) is not None for study in studies
            )
            for view in VIEWS
        },
        "reports here": sum(_report(root, study) is not None for study in studies),
    }


def report_sections(text: str) -> dict[str, str]:
    """A report's sections that say something, by their headings in lower case. An indication ends with its
    paragraph: what follows without a heading is of the report. "last paragraph" is that of the whole text,
    the impression where none is headed so."""
    headings = [*HEADING.finditer(text)]
    sections: dict[str, str] = {}
    for i, heading in enumerate(headings):
        name, end = (
            heading[1].strip().lower(),
            headings[i + 1].start() if i + 1 < len(headings) else len(text),
        )
        paragraphs = BLANK_LINE.split(text[heading.end() : end].strip())
        sections.setdefault(name, words(" ".join(paragraphs[:1] if name in INDICATIONS else paragraphs)))
    sections["last paragraph"] = words(HEADING.sub("", BLANK_LINE.split(text.strip())[-1]))
    return {name: said for name, said in sections.items() if said}


def _table(root: Path, name: str, columns: tuple[str, ...], bad: BadRows | None = None) -> Iterable[Row]:
    return read_table(find_table(root, NAME + name), columns, bad=bad)


def _studies(root: Path, bad: BadRows) -> dict[str, _Study]:
    known = {position for positions in VIEWS.values() for position in positions}
    studies: dict[str, _Study] = {}
    seen: dict[str, str] = {}
    for row in _table(root, "metadata", ("dicom_id", "subject_id", "study_id", "ViewPosition"), bad):
        with bad.row():
            image, person, id = (row.name(column) for column in ("dicom_id", "subject_id", "study_id"))
            for column in ("dicom_id", "subject_id", "study_id"):
                if not row.cells[column] or "/" in row.cells[column]:
                    raise row.error(column, "expected an id")
            if seen.setdefault(canonical(image), row.source) != row.source:
                raise row.error("dicom_id", f"expected each image once ({seen[canonical(image)]})")
            study = studies.setdefault(f"s{id}", _Study(f"s{id}", f"p{person}", [], row.source))
            if study.person != f"p{person}":
                raise row.error("subject_id", f"expected {study.person[1:]} as in {study.source}")
            if row.cells["ViewPosition"] in known:
                study.images.append((row.cells["ViewPosition"], image))
    return studies


def _labels(root: Path, studies: dict[str, _Study], bad: BadRows) -> dict[str, dict[str, bool]]:
    """By study; nothing where the table is not there."""
    labels: dict[str, dict[str, bool]] = {}
    if not any(root.glob(f"{NAME}chexpert.*")):
        return labels
    for row in _table(root, "chexpert", ("subject_id", "study_id", *CLASSES), bad):
        with bad.row():
            study = studies.get(f"s{row.name('study_id')}")
            if study is None:
                continue  # of a copy with some of the studies
            if study.person != f"p{row.name('subject_id')}":
                raise row.error("subject_id", f"expected {study.person[1:]} as in {study.source}")
            flags = {name: row.flag(name) for name in CLASSES}
            labels[study.id] = {name: flag for name, flag in flags.items() if flag is not None}
    return labels


def _folder(study: _Study) -> Path:
    """The person's folder, which holds the study's folder and its report."""
    return Path("files") / study.person[:3] / study.person


def _file(root: Path, study: _Study, view: str) -> Path | None:
    """The first image of a view, by the preferred position."""
    for position in VIEWS[view]:
        for own, image in study.images:
            for suffix in SUFFIXES if own == position else ():
                path = root / _folder(study) / study.id / f"{image}{suffix}"
                if path.is_file():
                    return path
    return None


def _image(root: Path, study: _Study, modality: Modality, cache: Path | None) -> ImageFile | None:
    path = _file(root, study, modality.name)
    return ImageFile(str(path), modality, f"{study.id}: {path.name}", cache) if path else None


def _report(root: Path, study: _Study) -> Path | None:
    name = _folder(study) / f"{study.id}.txt"
    return next((path for path in (root / name, root / "mimic-cxr-reports" / name) if path.is_file()), None)


def _texts(root: Path, study: _Study) -> dict[str, str | None]:
    """`report`: findings, then impression, else the last paragraph; None where there is no report."""
    path = _report(root, study)
    if path is None:
        return {"indication": None, "report": None}
    try:
        sections = report_sections(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: is not UTF-8 that can be read ({error})") from error
    said = [sections[name] for name in ("findings", "impression") if name in sections]
    return {
        "indication": next((sections[name] for name in INDICATIONS if name in sections), None),
        "report": " ".join(said) or sections.get("last paragraph"),
    }
