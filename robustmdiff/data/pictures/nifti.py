"""NIfTI volumes: the central axial slices, as a radiologist looks at them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.raster import Raster, Unreadable, central_slices, check_size, decoding

if TYPE_CHECKING:
    from nibabel import Nifti1Image

MOST_BYTES = 2**30  # of a volume that must be read whole


def read_nifti(path: Path, modality: Modality) -> Raster:
    """scl_slope and scl_inter applied; axes brought to the nearest of right, anterior, superior, without
    resampling. As many axial slices as the modality has channels, from inferior to superior
    (`central_slices`); in each, rows run from anterior to posterior and columns from the patient's right
    to left, as in an axial DICOM image."""
    assert modality.shape is not None
    with decoding("a NIfTI volume"):
        import nibabel

        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
            raise Unreadable(f"is {type(image).__name__}, expected NIfTI")
        shape, axes = _volume(image), _axes(image)
        right, anterior, superior = axes
        chosen = central_slices(shape[superior.number], modality.shape[0])
        check_size(shape[right.number], shape[anterior.number], len(chosen))
        stored = math.prod(shape) * image.get_data_dtype().itemsize
        if superior.number != 2 and stored > MOST_BYTES:
            raise Unreadable(f"holds {stored} bytes across its slices, expected at most {MOST_BYTES}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            pixels = np.stack([_plane(image, shape, axes, z).astype(np.float32) for z in chosen])
        zooms = [*map(float, image.header.get_zooms()[:3]), 1.0, 1.0]
        return Raster(pixels, is_share=False, tall=zooms[anterior.number] / zooms[right.number])


class _Axis(NamedTuple):
    """The axis of the file that runs along a direction of RAS."""

    number: int
    ascends: bool


def _plane(
    image: Nifti1Image, shape: tuple[int, int, int], axes: tuple[_Axis, _Axis, _Axis], z: int
) -> np.ndarray:
    """Axial slice z, from inferior; [anterior to posterior, right to left]. Only it is decoded."""
    right, anterior, superior = axes
    index: list[slice | int] = [slice(None)] * 3
    index[superior.number] = z if superior.ascends else shape[superior.number] - 1 - z
    index = [*index, *[0] * len(image.shape)][: len(image.shape)]
    plane = np.asanyarray(image.dataobj[tuple(index)])
    plane = plane.reshape([shape[number] for number in range(3) if number != superior.number])
    if right.number < anterior.number:
        plane = plane.T
    return plane[:: -1 if anterior.ascends else 1, :: -1 if right.ascends else 1]


def _volume(image: Nifti1Image) -> tuple[int, int, int]:
    """Its three lengths."""
    dtype = image.get_data_dtype()
    if dtype.fields:
        raise Unreadable("holds RGB voxels, expected one number per voxel")
    if dtype.kind not in "iuf":
        raise Unreadable(f"holds {dtype} voxels, expected real numbers")
    if any(length != 1 for length in image.shape[3:]):
        raise Unreadable(
            f"is {len(image.shape)}-D {list(image.shape)}, expected one volume: take one out before"
        )
    x, y, z = (*image.shape[:3], 1, 1)[:3]
    return x, y, z


def _axes(image: Nifti1Image) -> tuple[_Axis, _Axis, _Axis]:
    """Along right, anterior and superior."""
    from nibabel.orientations import io_orientation

    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise Unreadable("does not say how it lies (sform_code and qform_code are 0), expected one of them")
    orientation = io_orientation(image.affine)
    if not np.isfinite(orientation).all():
        raise Unreadable("has an affine that flattens an axis, expected three directions")
    number_of = {int(direction): number for number, (direction, _) in enumerate(orientation)}
    right, anterior, superior = (
        _Axis(number_of[direction], bool(orientation[number_of[direction], 1] > 0)) for direction in range(3)
    )
    return right, anterior, superior
