"""Which images a DICOM file or folder holds, and in which order: by where they lie, never by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustmdiff.data.pictures.raster import Unreadable

if TYPE_CHECKING:
    from pydicom import Dataset

NOT_IMAGES = {"RTDOSE": "a dose grid", "SEG": "a segmentation"}
ALIKE = (
    *("SeriesInstanceUID", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsStored", "PixelRepresentation", "PixelSpacing"),
)
DEFLATED = "1.2.840.10008.1.2.1.99"
MOST_DEFLATED = 2**20  # bytes of such a file, which is inflated whole and up to a thousandfold
MOST_FRAMES = 2**16
UNEVEN = 0.1  # of the usual distance


class Slice(NamedTuple):
    """One image: frame `frame` of a file; header without pixels."""

    path: Path
    header: Dataset
    frame: int

    def look_up(self, sequence: str, keyword: str) -> Any:
        """What the file says of this frame (multi-frame files keep it in `sequence`, once per frame or
        shared), or of all of itself; None where it says nothing."""
        per_frame, shared = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
        for groups, n in ((per_frame, self.frame), (shared, 0)):
            items = self.header[groups][n].get(sequence) if self.header.get(groups) else None
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return self.header.get(keyword)


def slices_of(path: Path) -> list[Slice]:
    """Those of a file or a folder: in order of position where they are a volume, else of the frames."""
    if not path.is_dir():
        header = _header(path)
        slices = [Slice(path, header, n) for n in range(_frame_count(header))]
        return _by_position(slices) if is_volume(slices) else slices
    files = list(_files(path))
    if len(files) == 1:
        return slices_of(files[0])
    slices = [Slice(file, _header(file), 0) for file in files]
    for slice_ in slices:
        if _frame_count(slice_.header) > 1:
            raise Unreadable(
                f"holds {slice_.path.name} of several frames, expected a folder of single slices"
            )
        for keyword in ALIKE:
            if slice_.header.get(keyword) != slices[0].header.get(keyword):
                raise Unreadable(
                    f"holds {slices[0].path.name} and {slice_.path.name}, which differ in {keyword}, "
                    "expected the slices of one series"
                )
    return _by_position(slices)


def is_volume(slices: list[Slice]) -> bool:
    """Whether they are slices, each of which says where it lies, and not frames of another kind."""
    groups = slices[0].header.get("PerFrameFunctionalGroupsSequence")
    return len(slices) > 1 and (
        slices[0].path != slices[1].path or (bool(groups) and "PlanePositionSequence" in groups[0])
    )


def _files(folder: Path) -> Iterator[Path]:
    found = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    found = [file for file in found if file.name.upper() != "DICOMDIR"]
    if not found:
        raise Unreadable("is an empty folder, expected the DICOM files of a series")
    for file in found:
        if file.is_dir():
            raise Unreadable(f"holds the folder {file.name!r}, expected only the DICOM files of one series")
        yield file


def _header(path: Path) -> Dataset:
    """Without its pixels; of something that is an image."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info

    try:
        deflated = read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED
        if deflated and path.stat().st_size > MOST_DEFLATED:
            raise Unreadable(
                f"is a deflated file of {path.stat().st_size} bytes, expected {MOST_DEFLATED} at most"
            )
        header = dcmread(path, stop_before_pixels=True)
    except InvalidDicomError as error:
        raise Unreadable(f"is not DICOM ({path.name} lacks the prefix 'DICM')") from error
    kind = header.get("Modality")
    if kind in NOT_IMAGES:
        raise Unreadable(f"is {NOT_IMAGES[kind]} ({kind}), expected an image")
    if header.get("Rows") is None or header.get("BitsAllocated") is None:
        raise Unreadable(f"holds no image (its Modality is {kind}), expected pixels")
    return header


def _frame_count(header: Dataset) -> int:
    count = int(header.get("NumberOfFrames") or 1)
    if not 1 <= count <= MOST_FRAMES:
        raise Unreadable(f"says that it holds {count} frames, expected 1 to {MOST_FRAMES}")
    return count


def _by_position(slices: list[Slice]) -> list[Slice]:
    """From right to left, anterior to posterior or inferior to superior, whichever their normal is nearest
    to (ascending in DICOM's coordinates); evenly spaced."""
    normal = _normal(slices)
    places = []
    for slice_ in slices:
        position = slice_.look_up("PlanePositionSequence", "ImagePositionPatient")
        if position is None:
            raise Unreadable(
                f"holds {slice_.path.name} without ImagePositionPatient, expected slices of a volume"
            )
        places.append(float(normal @ np.asarray(position, float)))
    order = sorted(range(len(slices)), key=places.__getitem__)
    steps = [places[after] - places[before] for before, after in pairwise(order)]
    usual = float(np.median(steps))
    for step, (before, after) in zip(steps, pairwise(order), strict=True):
        where = f"{_name(slices[before])} and {_name(slices[after])}"
        if step < 1e-3:
            raise Unreadable(f"holds {where} at one position, expected one slice at each")
        if abs(step - usual) > UNEVEN * usual:
            raise Unreadable(
                f"has {step:g} mm between {where}, expected {usual:g} mm as between the others (is a slice "
                "missing?)"
            )
    return [slices[n] for n in order]


def _name(slice_: Slice) -> str:
    return f"frame {slice_.frame + 1}" if slice_.frame else slice_.path.name


def _normal(slices: list[Slice]) -> np.ndarray:
    """The normal of all slices' planes, pointing to where the coordinate that changes most ascends."""
    first: np.ndarray | None = None
    for slice_ in slices:
        directions = slice_.look_up("PlaneOrientationSequence", "ImageOrientationPatient")
        if directions is None or len(directions) != 6:
            raise Unreadable(
                f"holds {_name(slice_)} without ImageOrientationPatient, expected slices of a volume"
            )
        row, column = np.asarray(directions, float).reshape(2, 3)
        first = np.stack([row, column]) if first is None else first
        if np.abs(np.stack([row, column]) - first).max() > 1e-3:
            raise Unreadable(
                f"holds {_name(slices[0])} and {_name(slice_)} of different orientation, expected one"
            )
    assert first is not None
    normal = np.cross(first[0], first[1])
    return normal * np.sign(normal[np.abs(normal).argmax()])
