"""DICOM files and series of one patient as the image modalities of a task.

Messages name files and modalities, never what a header says of a person.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustmdiff.clinical.code_map import CodeMap, said
from robustmdiff.clinical.received import Received
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures.dicom_series import slices_of
from robustmdiff.data.pictures.raster import Unreadable, decoding
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.task import Task

if TYPE_CHECKING:
    from pydicom import Dataset

NEEDED = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# What an SR document has to repeat of its patient and study, empty where it is not known (PS3.3 A.35).
REPEATED = (
    *("PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
UID = re.compile(r"[0-9.]{1,64}")
DATE = re.compile(r"[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")
TIME = re.compile(r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?")
FORMS = {
    "PatientSex": re.compile("[MFO]"),
    "PatientBirthDate": DATE,
    "StudyDate": DATE,
    "StudyTime": TIME,
}


def read_dicom(paths: Sequence[Path], task: Task, code_map: CodeMap) -> Received:
    """Each path is one image: a DICOM file, or a folder that is a series. Which modality it is, its Modality
    or its SeriesDescription says (`CodeMap`), or that there is no other. Pixels are decoded when the patient
    is asked about.

    Raises DataError, naming the file, for what is no DICOM image, for two patients, for two images of one
    modality and for an image of none.
    """
    observed: dict[str, ImageFile] = {}
    evidence: list[Dataset] = []
    first: dict[str, Path] = {}
    for path in paths:
        headers = _headers(path)
        modality = _modality(headers[0], task, code_map, path)
        if modality.name in observed:
            other = Path(observed[modality.name].path).name
            raise DataError(f"{path.name}: is {modality.name!r} as {other} is, expected one image of each")
        observed[modality.name] = ImageFile(str(path), modality, path.name)
        for header in headers:
            evidence.append(evidence_of(header, path))
            first.setdefault(_person(evidence[-1]), path)
    if len(first) > 1:
        some = " and ".join(dict.fromkeys(path.name for path in first.values()))
        raise DataError(f"{some}: the PatientID is of {len(first)} patients, expected one")
    (id,) = {str(image.PatientID) for image in evidence}
    return Received(
        observed=observed,
        identifiers=frozenset((id,)),
        subject={"type": "Patient", "identifier": {"value": id}},
        evidence=tuple(evidence),
    )


def evidence_of(header: Dataset, path: Path) -> Dataset:
    """The part of a header that a report on it needs: whose it is, and which it is. Raises DataError where it
    does not say so."""
    from pydicom import Dataset

    kept = Dataset()
    with silently():
        for keyword in NEEDED:
            value = _text(header, keyword)
            if not value or (keyword.endswith("UID") and not UID.fullmatch(value)):
                what = f"has {'no valid' if value else 'no'} {keyword}"
                raise DataError(f"{path.name}: {what}, which a report needs, expected one")
            setattr(kept, keyword, value)
        for keyword in REPEATED:
            value = _repeated(keyword, _text(header, keyword))
            if value or keyword != "IssuerOfPatientID":
                setattr(kept, keyword, value)
    return kept


@contextmanager
def silently() -> Iterator[None]:
    """Without the warnings of pydicom and highdicom, which quote what a header says of a person, and without
    pydicom's log, which repeats them."""
    log = logging.getLogger("pydicom")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def _headers(path: Path) -> list[Dataset]:
    """One of each file."""
    try:
        with decoding("a DICOM image"), silently():
            slices = slices_of(path)
    except Unreadable as error:
        raise DataError(f"{path.name}: {error}") from error
    return list({slice_.path: slice_.header for slice_ in slices}.values())


def modality_of(header: Dataset, task: Task, code_map: CodeMap) -> Modality | None:
    """The task's modality that an image is by its header; None: it is none of them."""
    kind, series = _text(header, "Modality"), _text(header, "SeriesDescription")
    column = code_map.column([said(kind), said(series)], "image")
    if column is not None:
        return column.modality
    images = task.of_kind("image")
    return images[0] if len(images) == 1 and images[0].name not in code_map.named else None


def _modality(header: Dataset, task: Task, code_map: CodeMap, path: Path) -> Modality:
    found = modality_of(header, task, code_map)
    if found is None:
        images = ", ".join(each.name for each in task.of_kind("image"))
        raise DataError(
            f"{path.name}: has Modality {_text(header, 'Modality')!r}, for which the map has no modality, "
            f"expected {images or 'no image: the model reads none'}"
        )
    return found


def _person(image: Dataset) -> str:
    return f"{image.PatientID}\n{image.get('IssuerOfPatientID', '')}"


def _text(header: Dataset, keyword: str) -> str:
    """The value as the file has it; "" where there is none, or none that can be read."""
    from pydicom.multival import MultiValue

    with silently():
        try:
            value = header.get(keyword)
        except Exception:  # of a value that its representation does not allow
            return ""
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value).strip()


def _repeated(keyword: str, value: str) -> Any:
    """The value where it is what its keyword asks for, else nothing."""
    from pydicom.valuerep import PersonName

    if keyword == "PatientName":
        return PersonName(value)  # decoded, so that it can be written as UTF-8
    expected = FORMS.get(keyword)
    return value if expected is None or expected.fullmatch(value) else ""
