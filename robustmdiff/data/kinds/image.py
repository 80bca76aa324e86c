"""Images: a picture's path in a table, pixels in a batch. They are decoded when they are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.data.batch import Images
from robustmdiff.data.patient import DataError, Patient, StoredImage
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.tables.cells import Row, brief
from robustmdiff.data.task import Modality


def columns(modality: Modality) -> list[tuple[str, ...]]:
    return [(modality.name,)]


def read(row: Row, modality: Modality, root: Path, cache: Path | None) -> ImageFile | None:
    name = row.cells.get(modality.name)
    if not name:
        return None
    path = root / name
    if not path.exists():
        raise row.error(modality.name, f"expected a file under {root}, or nothing")
    return ImageFile(str(path), modality, str(row.error(modality.name, "which")), cache)


def pack(
    modality: Modality,
    rows: np.ndarray,
    patients: Sequence[Patient],
    tokens: Callable[[str], list[int]] | None = None,
) -> Images[np.ndarray]:
    assert modality.shape is not None  # Modality checks it
    images = [_pixels(patient, modality) for patient in patients]
    pixels = np.stack(images) if images else np.empty((0, *modality.shape), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        sound = np.isfinite(pixels.sum())  # one NaN or infinity spoils the sum; so may an overflow
    for patient, image in zip(patients, pixels, strict=True) if not sound else ():
        bad = np.argwhere(~np.isfinite(image)).tolist()
        if bad:
            raise DataError(
                f"{patient}, modality {modality.name!r}: {len(bad)} values are NaN or infinite, "
                f"the first {image[tuple(bad[0])]} at {bad[0]}, expected finite numbers"
            )
    return Images(rows, pixels)


def _pixels(patient: Patient, modality: Modality) -> np.ndarray:
    observed: Any = patient.modalities[modality.name]
    where = f"{patient}, modality {modality.name!r}"
    expected = f"expected float32 {list(modality.shape or ())}"
    if isinstance(observed, StoredImage):
        observed = observed.pixels()
    if not hasattr(observed, "__array__"):
        raise DataError(f"{where}: is {brief(observed)}, {expected} as an array or an ImageFile")
    try:
        image = np.asarray(observed)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor on a GPU, with a gradient, in bfloat16
        raise DataError(f"{where}: numpy cannot read it ({error}), {expected}") from error
    if image.dtype != np.float32 or image.shape != tuple(modality.shape or ()):
        raise DataError(f"{where}: is {image.dtype} {list(image.shape)}, {expected}")
    return image
