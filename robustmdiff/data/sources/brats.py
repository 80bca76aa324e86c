"""BraTS, tumours of the brain: a folder for each head, with four MRI series and the tumour's segmentation.

    BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz       until 2021
    BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz          from 2023
    brats_2013_pat0004_1/{T1c,Flair}_subtrMeanDivStd.nii.gz, OTMultiClass.nii.gz  2015, as in DeepMedic

Folders may lie in folders (HGG/, LGG/); files may be .nii. One `Patient` is one axial slice, whose series
are pairs: the volumes are published on one grid, and refused on several. The slices are those in the middle
of equal parts of the volume, chosen from their number alone. The segmentation was drawn by people who looked
for the tumour: it says whether a slice shows one, which is the label, and is no observation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.pictures.nifti import read_nifti
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.series import Channel
from robustmdiff.data.sources.mri import MRIVolume, check_same_grid
from robustmdiff.data.study import prevalence
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.refusal import Refusal

SERIES = ("t1", "t1c", "t2", "flair")
SEGMENTATION = "seg"
# What follows the folder's name in a file's.
ENDINGS = {
    **{"_t1": "t1", "_t1ce": "t1c", "_t2": "t2", "_flair": "flair", "_seg": SEGMENTATION},
    **{"-t1n": "t1", "-t1c": "t1c", "-t2w": "t2", "-t2f": "flair", "-seg": SEGMENTATION},
}
DEEPMEDIC = {
    **{f"{file}_subtrMeanDivStd": name for file, name in (("T1", "t1"), ("T1c", "t1c"), ("T2", "t2"))},
    **{"Flair_subtrMeanDivStd": "flair", "OTMultiClass": SEGMENTATION},
}
NOT_READ = ("brainmask",)
CLASSES = ("tumour", "no tumour")


def load_brats(
    root: str | Path,
    image_size: int = 64,
    slices: int = 5,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """All slices, and the task of telling whether the tumour is in one; a head without a segmentation (those
    for validation) has no labels, and a series that is not there is absent.

    slices  of each head
    cache   a folder for decoded slices, without which a volume is decoded once for each of its slices

    `Patient.group` is the person, of whom there are several examinations from 2023 on. Segmentations are read
    here, series when they are asked for. Raises DataError naming the file of every head that cannot be read,
    unless `bad` is to skip it.
    """
    if slices < 1:
        raise Refusal(f"load_brats: slices is {slices}, expected 1 or more")
    root, bad = Path(root), bad or BadRows()
    task_modalities = tuple(Modality(name, "image", (1, image_size, image_size)) for name in SERIES)
    patients: list[Patient] = []
    for folder in _heads(root):
        with bad.row():
            patients += _slices(folder, slices, image_size, Path(cache) if cache else None)
    bad.check()
    if not patients:
        raise DataError(f"{root}: has no volume of BraTS, expected FOLDER/FOLDER_flair.nii.gz or the like")
    return patients, Task(task_modalities, CLASSES, prevalence(patients, CLASSES, EXCLUSIVE))


def verify(root: str | Path) -> dict[str, int]:
    """What is there, counted."""
    heads, bad = [], BadRows(skip=True)
    for folder in _heads(Path(root)):
        with bad.row():
            heads.append(_files(folder))
    count = Counter(name for files in heads for name in files)
    return {
        "heads": len(heads),
        "heads with every series": sum(set(SERIES) <= set(files) for files in heads),
        **{f"volumes {name}": count[name] for name in (*SERIES, SEGMENTATION)},
    }


def _heads(root: Path) -> Iterator[Path]:
    """Every folder with volumes in it."""
    yield from sorted({path.parent for path in root.rglob("*.nii*") if path.is_file()})


def _files(folder: Path) -> dict[str, Path]:
    """The volumes of a head by what they are."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.nii*")):
        stem = re.sub(r"\.nii(\.gz)?$", "", path.name)
        name = DEEPMEDIC.get(stem) or ENDINGS.get(stem.removeprefix(folder.name))
        if stem in NOT_READ:
            continue
        if name is None:
            raise DataError(
                f"{folder.name}/{path.name}: is no series of BraTS, expected {folder.name} and one of "
                f"{', '.join(ENDINGS)}"
            )
        if name in found:
            raise DataError(f"{folder.name}: has {found[name].name} and {path.name}, expected one {name}")
        found[name] = path
    return {name: found[name] for name in (*SERIES, SEGMENTATION) if name in found}


def _slices(folder: Path, slices: int, image_size: int, cache: Path | None) -> list[Patient]:
    files = _files(folder)
    check_same_grid(files)
    volumes = {
        name: MRIVolume(
            str(path),
            Modality(name, "image", (slices, image_size, image_size)),
            f"{folder.name}: {path.name}",
            cache,
        )
        for name, path in files.items()
        if name != SEGMENTATION
    }
    shown = _tumour(files.get(SEGMENTATION), slices)
    person = re.sub(r"^(BraTS-\w+-\d+)-\d+$", r"\1", folder.name)
    return [
        Patient(
            id=f"{folder.name}/{number + 1}",
            modalities={
                name: Channel(volumes[name], number, slices, folder.name) if name in volumes else None
                for name in SERIES
            },
            labels=label,
            source=folder.name,
            group=person,
        )
        for number, label in enumerate(shown)
    ]


def _tumour(path: Path | None, slices: int) -> list[Mapping[str, bool]]:
    """The label of each slice; of a head without a segmentation none."""
    if path is None:
        return [{}] * slices
    try:
        seen = read_nifti(path, Modality(SEGMENTATION, "image", (slices, 1, 1))).pixels
    except Unreadable as error:
        raise DataError(f"{path.name} {error}") from error
    if not np.isin(seen, range(5)).all():
        raise DataError(f"{path.name}: holds {seen.max():g}, expected the codes 0 to 4 of a segmentation")
    return [{"tumour" if part.any() else "no tumour": True} for part in seen]
