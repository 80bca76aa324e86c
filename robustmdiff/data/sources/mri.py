"""MRI volumes, whose numbers have no unit: slices as shares of a volume's own range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures.nifti import read_nifti
from robustmdiff.data.pictures.raster import Unreadable, decoding, fit
from robustmdiff.data.pictures.read import remembered

BRIGHTEST = 0.995  # the quantile that is white: single bright voxels would darken everything else
SAME_PLACE = 1e-3  # mm


@dataclass(frozen=True, slots=True)
class MRIVolume:
    """The central axial slices of a NIfTI volume, decoded each time they are asked for: a `StoredImage`.

    The scanner chooses the scale of a volume, so it is taken from the volume: the lowest value of its slices
    is 0 (the background, also of a volume less its mean), the quantile .995 of those above it is 1.

    modality  of shape [slices, height, width].
    where     how messages begin.
    cache     a folder for decoded slices; never under the data.
    """

    path: str
    modality: Modality
    where: str
    cache: Path | None = None

    def pixels(self) -> np.ndarray:
        """float32 [slices, height, width] in [0, 1]. Raises DataError for a file that cannot be decoded."""
        try:
            return remembered(Path(self.path), self.modality, self.cache, self._decoded, "share of its range")
        except Unreadable as error:
            raise DataError(f"{self.where} {error}") from error

    def _decoded(self) -> tuple[np.ndarray, str]:
        assert self.modality.shape is not None
        raster = read_nifti(Path(self.path), self.modality)
        if not np.isfinite(raster.pixels).all():
            raise Unreadable("holds NaN or infinite values, expected finite numbers")
        above = raster.pixels - raster.pixels.min()
        if not above.any():
            raise Unreadable(f"holds nothing but {raster.pixels.min():g} in its slices, expected an image")
        shares = (above / np.quantile(above[above > 0], BRIGHTEST)).clip(0, 1).astype(np.float32)
        _, height, width = self.modality.shape
        return fit(shares, height, width, raster.tall).clip(0, 1), raster.warning


def check_same_grid(volumes: Mapping[str, Path]) -> None:
    """DataError unless the volumes of a person, by name, have one shape and lie in one place, so that their
    slices are pairs. Headers alone are read."""
    import nibabel

    first: tuple[str, tuple[int, ...], np.ndarray] | None = None
    for name, path in volumes.items():
        try:
            with decoding("a NIfTI volume"):
                image = nibabel.load(path)
                if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
                    raise Unreadable(f"is {type(image).__name__}, expected NIfTI")
                shape, affine = tuple(image.shape), np.asarray(image.affine)
        except Unreadable as error:
            raise DataError(f"{path.name} {error}") from error
        if first is None:
            first = name, shape, affine
        if shape != first[1]:
            raise DataError(
                f"{path.name}: has {list(shape)} voxels, expected {list(first[1])} as {first[0]} of this head"
            )
        if np.abs(affine - first[2]).max() > SAME_PLACE:
            raise DataError(f"{path.name}: lies elsewhere than {first[0]} of this head (another affine)")
