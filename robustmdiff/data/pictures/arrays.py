"""NumPy's .npy: numbers in the modality's own unit and shape."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.raster import Raster, Unreadable, decoding

HEADER = Lock()


def stored(path: Path) -> np.ndarray:
    """The array in a file, not read yet. One thread at a time: its header is a Python literal, and CPython
    before 3.11.8 counts the depth of literals in one place for all threads, so that it now and then refuses a
    sound one (its issue 106905)."""
    with HEADER:
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_array(path: Path, modality: Modality) -> Raster:
    """[channels, height, width], or [height, width] where there is one channel; of any real type and
    order. Only an array of the modality's shape is read into memory."""
    assert modality.shape is not None
    with decoding("an array"):
        array = stored(path)
    if not isinstance(array, np.ndarray):
        raise Unreadable("is not an array that can be read (an archive of several), expected .npy")
    if array.dtype.kind not in "biuf":
        raise Unreadable(f"holds {array.dtype}, expected real numbers")
    if modality.shape not in (array.shape, (1, *array.shape)):
        raise Unreadable(f"has shape {list(array.shape)}, expected {list(modality.shape)}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        pixels = np.array(array, np.float32, order="C").reshape(modality.shape)
    return Raster(pixels, is_share=False)
