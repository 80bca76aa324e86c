"""Images: a picture's path in a table, pixels in a batch. They are decoded when they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np

from robustmdiff.data.batch import A
from robustmdiff.data.kinds.kind import OPEN, Kind, Spans, Spec, Tokens, check_parts
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient, StoredImage
from robustmdiff.data.pictures.read import ImageFile, read_image
from robustmdiff.data.tables.cells import Row, brief
from robustmdiff.refusal import Refusal


class Images(NamedTuple, Generic[A]):
    """The images of the n patients who have one; `rows` says which patients they are."""

    rows: A  # [n] int64, ascending
    pixels: A  # [n, C, H, W] float32, in the modality's own unit


class Image(Kind):
    """float32 [channels, height, width], as an array or a `StoredImage`."""

    settings = ("shape", "channels")
    media = "image/png, image/jpeg, image/tiff, application/dicom"
    needs = ("pillow",)

    def check(self, modality: Modality, where: str) -> None:
        if not _is_shape(modality.shape):
            raise Refusal(f"{where}: shape is {modality.shape}, expected (channels, height, width)")
        assert modality.shape is not None  # it has just been looked at
        if modality.channels and len(modality.channels) != modality.shape[0]:
            raise Refusal(
                f"{where}: channels is {modality.channels}, expected {modality.shape[0]} of them, or none"
            )

    def read(self, row: Row, modality: Modality, root: Path, cache: Path | None) -> ImageFile | None:
        name = row.cells.get(modality.name)
        if not name:
            return None
        path = root / name
        if not path.exists():
            raise row.error(modality.name, f"expected a file under {root}, or nothing")
        return ImageFile(str(path), modality, str(row.error(modality.name, "which")), cache)

    def pack(
        self, modality: Modality, rows: np.ndarray, patients: Sequence[Patient], tokens: Tokens
    ) -> Images[np.ndarray]:
        assert modality.shape is not None  # its task checks it
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

    def specs(self, modality: Modality) -> dict[str, Spec]:
        return {"pixels": Spec(np.dtype(np.float32), (OPEN, *(modality.shape or ())))}

    def expected(self, modality: Modality) -> str:
        return "an image that can be read (PNG, JPEG, TIFF, DICOM)"

    def from_file(self, path: Path, modality: Modality) -> np.ndarray:
        return read_image(path, modality)

    def told(self, modality: Modality, observed: Any, parts: Any, spans: Spans) -> Any:
        """[C, H, W]."""
        check_parts(modality, parts, modality.shape or ())
        return parts


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple | list)
        and len(shape) == 3
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in shape)
    )


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
