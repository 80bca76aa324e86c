"""Pairs of BraTS 2015, packed: slices96.npz with FLAIR, T1 after contrast and the tumour of 96 x 96 slices.

One `Patient` is one axial slice, `Patient.group` the head. The tumour's codes say whether a slice shows one,
which is the label, and are no observation. `brats` reads the volumes of two of the heads, beside the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.pictures.raster import fit
from robustmdiff.data.sources.brats import CLASSES
from robustmdiff.data.study import prevalence
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE

FILE = "slices96.npz"
SERIES = {"t1c": "t1c", "flair": "flair"}  # modality to array, uint8 [slices, height, width]
ARRAYS = (*SERIES.values(), "label", "patient", "z", "patient_names")


def load_brats_deepmedic(
    root: str | Path, image_size: int = 64, *, bad: BadRows | None = None
) -> tuple[list[Patient], Task]:
    """All slices, and the task of telling whether the tumour is in one. 255 counts as 1.

    Raises DataError for a file that cannot be read, whose arrays are not pairs, or of another depth.
    """
    path = Path(root) / FILE
    arrays = _arrays(path)
    modalities = tuple(Modality(name, "image", (1, image_size, image_size)) for name in SERIES)
    images = {
        name: fit(arrays[array].astype(np.float32) / 255, image_size, image_size)
        for name, array in SERIES.items()
    }
    shows = np.asarray(arrays["label"].any(axis=(1, 2)))
    patients = []
    for number, (head, z) in enumerate(zip(arrays["patient"], arrays["z"], strict=True)):
        name = str(arrays["patient_names"][head])
        patients.append(
            Patient(
                id=f"{name}/{z}",
                modalities={series: image[number, None] for series, image in images.items()},
                labels={"tumour" if shows[number] else "no tumour": True},
                source=f"{FILE}:{number}",
                group=name,
            )
        )
    return patients, Task(modalities, CLASSES, prevalence(patients, CLASSES, EXCLUSIVE))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: is no archive of {', '.join(ARRAYS)} ({error})") from error
    shape = arrays["flair"].shape
    for name in (*SERIES.values(), "label"):
        found = arrays[name]
        if found.ndim != 3 or found.shape != shape or found.dtype != np.uint8:
            held = f"{path.name}: {name} is {found.dtype} {list(found.shape)}"
            raise DataError(f"{held}, expected uint8 {list(shape)} as flair, slices by height by width")
    for name in ("patient", "z"):
        if arrays[name].shape != shape[:1] or arrays[name].dtype.kind not in "iu":
            held = f"{path.name}: {name} is {arrays[name].dtype} {list(arrays[name].shape)}"
            raise DataError(f"{held}, expected {shape[0]} whole numbers, one for each slice")
    heads = len(arrays["patient_names"])
    if not ((arrays["patient"] >= 0) & (arrays["patient"] < heads)).all():
        raise DataError(f"{path.name}: patient has {arrays['patient'].max()}, expected 0 to {heads - 1}")
    return arrays
