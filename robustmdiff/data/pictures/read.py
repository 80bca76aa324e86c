"""Image files to the channels, height and width that a modality declares, in float32.

Which reader a file gets is told by its suffix, or else by how it begins; what it accepts and how it decodes
is in the reader's docstring and, as a table, in docs/data.md. A scale comes from the file's own tags or from
the task, never from the pixels of a picture.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures.arrays import read_array, stored
from robustmdiff.data.pictures.bitmaps import read_bitmap
from robustmdiff.data.pictures.dicom import read_dicom
from robustmdiff.data.pictures.nifti import read_nifti
from robustmdiff.data.pictures.raster import Raster, Unreadable, fit
from robustmdiff.data.pictures.tiff import TIFF, read_tiff
from robustmdiff.whole import write_whole

DECODING = 2  # raised whenever a file is decoded otherwise than before; older entries of a cache are left

READERS: dict[str, Callable[[Path, Modality], Raster]] = {
    ".npy": read_array,
    ".dcm": read_dicom,
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image where it lies, decoded each time it is asked for: a `StoredImage` of a patient.

    modality  whose shape and window it is brought to, as `read_image` does.
    where     how messages begin ("metadata.csv:118, column 'filename': x.png").
    cache     a folder for decoded images, refreshed when the file changes; never under the data.
    """

    path: str
    modality: Modality
    where: str
    cache: Path | None = None

    def pixels(self) -> np.ndarray:
        """float32 of the modality's shape. Raises DataError for a file that cannot be decoded."""
        try:
            return read_image(Path(self.path), self.modality, self.cache)
        except Unreadable as error:
            raise DataError(f"{self.where} {error}") from error


def read_image(path: Path, modality: Modality, cache: Path | None = None) -> np.ndarray:
    """float32 of the modality's shape, in the unit of its window. Padded with black (the window's low
    end) to the proportions of the shape first, so that nothing is cut off and nothing stretched, whatever
    the proportions of its pixels.

    cache  a folder for decoded images, refreshed when the file changes; never under the data.

    Raises Unreadable. Warns of what the file says that its user should know.
    """
    assert modality.shape is not None
    reader = _reader(path)
    if modality.window == "file" and reader is not read_dicom:
        raise Unreadable('has no window of its own, which "window": "file" asks for: only DICOM has')
    if reader is read_array:
        cache = None
    return remembered(path, modality, cache, lambda: _decoded(reader(path, modality), modality))


def remembered(
    path: Path,
    modality: Modality,
    cache: Path | None,
    decode: Callable[[], tuple[np.ndarray, str]],
    how: str = "",
) -> np.ndarray:
    """What `decode` makes of a file, and says of it: kept in the folder `cache`, unless there is something to
    say, which is warned of whenever the file is read. `how` names a way of decoding that is not `read_image`.
    """
    kept = cache / _key(path, modality, how) if cache is not None else None
    if kept is not None and kept.is_file():
        try:
            pixels = np.array(stored(kept))
        except (OSError, ValueError, EOFError):  # damaged: decode again
            pixels = np.empty(0)
        if pixels.shape == modality.shape and pixels.dtype == np.float32:
            return pixels
    pixels, warning = decode()
    if warning:
        warnings.warn(f"{path.name} {warning}", stacklevel=3)
    elif kept is not None:
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        write_whole(kept, buffer.getvalue())
    return pixels


def _decoded(raster: Raster, modality: Modality) -> tuple[np.ndarray, str]:
    assert modality.shape is not None
    _check(raster, modality)
    low, (_, height, width) = modality.low_high[0], modality.shape
    pixels = fit(raster.pixels, height, width, raster.tall, fill=0.0 if raster.is_share else low)
    return pixels.clip(0, 1) if raster.is_share else pixels, raster.warning


def _reader(path: Path) -> Callable[[Path, Modality], Raster]:
    """By the suffix, or else by how the file begins: pictures are often named after another format, and
    DICOM files after none."""
    if path.is_dir():
        return read_dicom
    for suffix, reader in READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    try:
        with path.open("rb") as file:
            beginning = file.read(132)
    except OSError as error:
        raise Unreadable(f"is not an image that can be read ({error})") from error
    if beginning[128:] == b"DICM":
        return read_dicom
    return read_tiff if beginning[:4] in TIFF else read_bitmap


def _key(path: Path, modality: Modality, how: str) -> str:
    """A name in the cache, of all that decides the pixels."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    settings = (modality.shape, modality.window, modality.bits, *([how] if how else []))
    decides = repr((DECODING, stats, *settings))
    return f"{hashlib.sha256(decides.encode()).hexdigest()[:32]}.npy"


def _check(raster: Raster, modality: Modality) -> None:
    """That the window is one for these values: one that nobody meant would make every pixel black or white
    and the model none the wiser."""
    pixels, (low, high) = raster.pixels, modality.low_high
    if not np.isfinite(pixels).all():
        raise Unreadable("holds NaN or infinite values, expected finite numbers")
    if not 0.01 <= raster.tall <= 100:
        raise Unreadable(f"has pixels {raster.tall:g} times as high as wide, expected 0.01 to 100")
    if raster.is_share:
        if low < 0 or high > 1:
            raise Unreadable(
                f"counts its full scale as 1, but the window is [{low:g}, {high:g}], expected one within "
                '[0, 1] ("bits" says where the scale of deep pictures ends)'
            )
        return
    held = f"holds values from {pixels.min():g} to {pixels.max():g}"
    if (low, high) == (0, 1):
        if pixels.min() < 0 or pixels.max() > 1:
            raise Unreadable(
                f'{held}, expected 0 to 1, the default window: declare their "window" in their own unit'
            )
    elif not ((pixels >= low) & (pixels <= high)).any() or (above := (pixels > high).mean()) > 0.9:
        which = "all outside" if not ((pixels >= low) & (pixels <= high)).any() else f"{above:.0%} above"
        raise Unreadable(f"{held}, {which} the window [{low:g}, {high:g}], expected it in their unit")
