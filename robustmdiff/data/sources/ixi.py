"""IXI, healthy heads: IXI-T1/IXI002-Guys-0828-T1.nii.gz, and so in IXI-T2/, IXI-PD/ and IXI-MRA/.

One `Patient` is one person, whose series are paired by the first three parts of their names. A channel is a
slice: those in the middle of equal parts of each volume. T2 and PD come from one acquisition and share their
grid, and are refused where they do not; T1 and MRA have grids of their own, so that their slices lie at other
heights: for translation from or to them, register the volumes first.

Nobody here is ill, and the demographic table (IXI.xls) is not read. The one thing to be told is the hospital,
by whose scanner: which is also what a model must not rely on.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.sources.mri import MRIVolume, check_same_grid
from robustmdiff.data.study import prevalence
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.refusal import Refusal

SERIES = ("T1", "T2", "PD", "MRA")
SITES = {
    "Guys": "Guy's Hospital (1.5 T)",
    "HH": "Hammersmith Hospital (3 T)",
    "IOP": "Institute of Psychiatry (1.5 T)",
}
NAME = re.compile(rf"((IXI\d+)-({'|'.join(SITES)})-\d+)-({'|'.join(SERIES)})\.nii(\.gz)?")


def load_ixi(
    root: str | Path,
    image_size: int = 64,
    slices: int = 5,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """All people, and the task of telling the hospital.

    slices  of each volume, the channels of its image
    cache   a folder for decoded slices; never under the data

    Volumes are read when they are asked for. Raises DataError naming the file of everyone who cannot be read,
    unless `bad` is to skip them.
    """
    if slices < 1:
        raise Refusal(f"load_ixi: slices is {slices}, expected 1 or more")
    root, bad = Path(root), bad or BadRows()
    modalities = {name: Modality(name, "image", (slices, image_size, image_size)) for name in SERIES}
    patients: list[Patient] = []
    for id, volumes in _people(root, bad).items():
        with bad.row():
            check_same_grid({name: volumes[name] for name in ("T2", "PD") if name in volumes})
            person, site, _ = id.split("-")
            patients.append(
                Patient(
                    id=id,
                    modalities={
                        name: MRIVolume(
                            str(volumes[name]), modality, volumes[name].name, Path(cache) if cache else None
                        )
                        if name in volumes
                        else None
                        for name, modality in modalities.items()
                    },
                    labels={SITES[site]: True},
                    source=id,
                    site=site,
                    group=person,
                )
            )
    bad.check()
    if not patients:
        raise DataError(
            f"{root}: has no volume of IXI, expected IXI-T1/IXI002-Guys-0828-T1.nii.gz or the like"
        )
    classes = tuple(SITES.values())
    return patients, Task(tuple(modalities.values()), classes, prevalence(patients, classes, EXCLUSIVE))


def verify(root: str | Path) -> dict[str, int]:
    """What is there, counted."""
    people = _people(Path(root), BadRows(skip=True))
    count = Counter(name for volumes in people.values() for name in volumes)
    return {
        "people": len(people),
        "people with every series": sum(len(volumes) == len(SERIES) for volumes in people.values()),
        **{f"volumes {name}": count[name] for name in SERIES},
    }


def _people(root: Path, bad: BadRows) -> dict[str, dict[str, Path]]:
    """By the first three parts of the names, the volumes of each person."""
    people: dict[str, dict[str, Path]] = {}
    for name in SERIES:
        for path in sorted((root / f"IXI-{name}").glob("*.nii*")):
            with bad.row():
                match = NAME.fullmatch(path.name)
                if match is None or match[4] != name:
                    raise DataError(
                        f"IXI-{name}/{path.name}: expected a name such as IXI002-Guys-0828-{name}.nii.gz"
                    )
                volumes = people.setdefault(match[1], {})
                if name in volumes:
                    raise DataError(
                        f"IXI-{name}/{path.name}: there is {volumes[name].name}, expected one of them"
                    )
                volumes[name] = path
    return dict(sorted(people.items()))
