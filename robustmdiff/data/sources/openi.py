"""Open-i's chest X-ray reports (Indiana University; Demner-Fushman et al. 2016): XML, without the images.

    NLMCXR_reports.tgz            as published, read as a stream: nothing is unpacked
    ecgen-radiology/1.xml ...     or unpacked

One `Patient` is one study: why it was made (`indication`) and what was seen (`report`: findings, then
impression). Names and dates were replaced by "XXXX" before publication, and stay so. With the images,
see `iu_xray`.

The label, normal or not, was coded by people who read the report: a diagnosis from `report` reads the answer.
The texts are here to be generated, or to train what reads texts.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.study import prevalence
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE

ARCHIVE, FOLDER = "NLMCXR_reports.tgz", "ecgen-radiology"
CLASSES = ("normal", "abnormal")
NOT_CODED = ("no indexing", "technical quality of image unsatisfactory")
TEXTS = (Modality("indication", "text", cost=0.5), Modality("report", "text"))


class Study(NamedTuple):
    """A report and what belongs to it.

    sections  by their names in lower case ("findings"); one that says nothing is not in it
    coded     what indexers found in the report ("normal", "Cardiomegaly/mild")
    images    ids of its images, as in the names of their files; empty where that is not known
    """

    id: str
    sections: Mapping[str, str]
    coded: tuple[str, ...]
    images: tuple[str, ...]
    source: str

    def texts(self) -> dict[str, str | None]:
        """The text modalities; None where nothing is written."""
        said = [self.sections[name] for name in ("findings", "impression") if name in self.sections]
        return {"indication": self.sections.get("indication"), "report": " ".join(said) or None}

    def labels(self) -> dict[str, bool]:
        """Nothing where it was not coded."""
        coded = {name.strip().lower() for name in self.coded} - {""}
        if coded <= set(NOT_CODED):
            return {}
        return {"normal" if coded == {"normal"} else "abnormal": True}


def load_openi(root: str | Path, *, bad: BadRows | None = None) -> tuple[list[Patient], Task]:
    """All studies, and the task of telling a normal one from another, which their reports state.

    Raises DataError naming the file of every report that cannot be read, unless `bad` is to skip them.
    """
    bad = bad or BadRows()
    patients = [
        Patient(study.id, study.texts(), study.labels(), source=study.source)
        for study in stream_studies(root, bad=bad)
    ]
    bad.check()
    return patients, Task(TEXTS, CLASSES, prevalence(patients, CLASSES, EXCLUSIVE))


def verify(root: str | Path) -> dict[str, int]:
    """What is there, counted."""
    studies = list(stream_studies(root, bad=BadRows(skip=True)))
    sections = Counter(name for study in studies for name in study.sections)
    return {
        "reports": len(studies),
        "images named": sum(len(study.images) for study in studies),
        "reports that name no image": sum(not study.images for study in studies),
        **{f"with {name}": count for name, count in sorted(sections.items())},
    }


def stream_studies(root: str | Path, *, bad: BadRows | None = None) -> Iterator[Study]:
    """The studies one by one, of the archive or the folder under `root`. Raises DataError for one that
    cannot be read, or is there twice, unless `bad` notes it."""
    root, seen = Path(root), dict[str, str]()
    for name, content in _files(root):
        study = None
        if bad is None:
            study = _study(name, content, seen)
        else:
            with bad.row():
                study = _study(name, content, seen)
        if study is not None:
            yield study


def words(text: str | None) -> str:
    """A text in one line, words apart by one space."""
    return " ".join((text or "").split())


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    """The reports by name."""
    folder = next((place for place in (root / FOLDER, root) if any(place.glob("*.xml"))), None)
    if folder is not None:
        for path in sorted(folder.glob("*.xml")):
            yield path.name, path.read_bytes()
    elif (root / ARCHIVE).is_file():
        try:
            with tarfile.open(root / ARCHIVE, "r|gz") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.name.endswith(".xml") else None
                    if file is not None:
                        yield f"{ARCHIVE}/{member.name}", file.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{ARCHIVE}: is not an archive that can be read ({error})") from error
    else:
        raise DataError(f"{root}: has no {ARCHIVE} and no {FOLDER}/*.xml")


def _study(name: str, content: bytes, seen: dict[str, str]) -> Study:
    """The study in a file; `seen` holds the ids so far and where they stand."""
    try:
        tree = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise DataError(f"{name}: is not XML that can be read ({error})") from error
    found = tree.find("uId")
    id = found.get("id", "") if found is not None else ""
    if not id:
        raise DataError(f"{name}: has no uId, expected a report of Open-i")
    if seen.setdefault(id, name) != name:
        raise DataError(f"{name}: is {id}, expected each study once ({seen[id]})")
    sections = {part.get("Label", "").lower(): words(part.text) for part in tree.iter("AbstractText")}
    return Study(
        id=id,
        sections={label: text for label, text in sections.items() if text},
        coded=_texts(part.text for part in tree.findall("MeSH/major")),
        images=_texts(part.get("id") for part in tree.findall("parentImage")),
        source=name,
    )


def _texts(found: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(text for text in found if text)
