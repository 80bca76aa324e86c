"""Folders and files of many slices: sorted by where they lie, or refused."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.read import read_image
from tests.data.pictures.dicom import AXIAL, CORONAL, edit, item, series, written

RNG = np.random.default_rng(4)


def decoded(path, shape, **modality):
    return read_image(path, Modality("m", "image", shape, **modality))


def test_a_series_is_sorted_by_position_and_gives_its_central_slices(tmp_path):
    folder = series(tmp_path / "s", [4, 0, 7, 2, 9, 1, 8, 3, 6, 5])
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "DICOMDIR").write_bytes(b"x")
    assert decoded(folder, (2, 4, 4), window=(0, 10))[:, 0, 0].tolist() == [2, 7]
    assert decoded(folder, (1, 4, 4), window=(0, 10))[:, 0, 0].tolist() == [5]
    assert decoded(folder, (10, 4, 4), window=(0, 10))[:, 0, 0].tolist() == list(range(10))
    with pytest.raises(Unreadable, match=r"^holds 10 slices, expected at least 11 for"):
        decoded(folder, (11, 4, 4), window=(0, 10))


def test_the_order_follows_the_body_and_not_the_sign_of_the_normal(tmp_path):
    folder = series(tmp_path / "s", [2, 0, 1], CORONAL, along=1)
    assert decoded(folder, (3, 4, 4), window=(0, 10))[:, 0, 0].tolist() == [0, 1, 2]
    flipped = series(tmp_path / "t", [2, 0, 1], ["1", "0", "0", "0", "-1", "0"])  # the normal points down
    assert decoded(flipped, (3, 4, 4), window=(0, 10))[:, 0, 0].tolist() == [0, 1, 2]


def test_each_slice_has_its_own_rescale(tmp_path):
    folder = series(tmp_path / "s", [0, 1, 2])
    for n, slope in enumerate((10, 20, 30)):
        path = folder / f"IM{n:04d}"
        image = pydicom.dcmread(path)
        image.RescaleSlope, image.RescaleIntercept = str(slope), "1"
        image.save_as(path)
    assert decoded(folder, (3, 4, 4), window=(0, 100))[:, 0, 0].tolist() == [1, 21, 61]


def test_a_folder_of_one_file_is_that_file(tmp_path):
    (tmp_path / "s").mkdir()
    stored = RNG.integers(0, 4096, (6, 6), np.uint16)
    written(tmp_path / "s" / "a", stored, BitsStored=12)
    np.testing.assert_array_equal(decoded(tmp_path / "s", (1, 6, 6))[0], (stored / 4095).astype(np.float32))


BROKEN = {
    "missing slice": (
        lambda f: (f / "IM0003").unlink(),
        r"^has 6 mm between IM0002 and IM0004, expected 3 mm .* missing",
    ),
    "slice twice": (
        lambda f: edit(f / "IM0003", ImagePositionPatient=["-50", "-60", "-64"]),
        r"^holds IM0002 and IM0003 at one position, expected one slice at each$",
    ),
    "another series": (
        lambda f: edit(f / "IM0003", SeriesInstanceUID="1.2.4"),
        r"^holds IM0000 and IM0003, which differ in SeriesInstanceUID, expected the slices of one series$",
    ),
    "another size": (lambda f: edit(f / "IM0003", Rows=2, Columns=8), r"which differ in Rows"),
    "another orientation": (
        lambda f: edit(f / "IM0003", ImageOrientationPatient=CORONAL),
        r"^holds IM0000 and IM0003 of different orientation, expected one$",
    ),
    "no position": (
        lambda f: edit(f / "IM0003", ImagePositionPatient=None),
        r"^holds IM0003 without ImagePositionPa",
    ),
    "no orientation": (
        lambda f: edit(f / "IM0003", ImageOrientationPatient=None),
        r"^holds IM0003 without ImageOri",
    ),
    "not DICOM": (
        lambda f: (f / "notes.txt").write_text("x", encoding="utf-8"),
        r"^is not DICOM \(notes\.txt lacks the prefix",
    ),
    "a folder inside": (
        lambda f: (f / "more").mkdir(),
        r"^holds the folder 'more', expected only the DICOM files",
    ),
    "several frames": (
        lambda f: edit(f / "IM0007", NumberOfFrames="2"),
        r"^holds IM0007 of several frames, expected a folder of single slices$",
    ),
    "empty": (
        lambda f: [file.unlink() for file in f.iterdir()],
        r"^is an empty folder, expected the DICOM files",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_series_that_is_none_is_refused(tmp_path, spoil, message):
    folder = series(tmp_path / "s", range(8))
    spoil(folder)
    with pytest.raises(Unreadable, match=message):
        decoded(folder, (2, 4, 4), window=(0, 10))


def test_a_file_of_many_slices_is_sorted_by_their_positions(tmp_path):
    order = [3, 0, 2, 1]
    groups = []
    for n in order:
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=["0", "0", str(5 * n)])
        frame.PixelValueTransformationSequence = item(
            RescaleSlope=str(n + 1), RescaleIntercept="0", RescaleType="US"
        )
        groups.append(frame)
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=AXIAL)
    shared.PixelMeasuresSequence = item(PixelSpacing=["2", "1"])
    stored = np.stack([np.full((2, 4), 10 + n, np.uint16) for n in order])
    path = written(
        *(tmp_path / "x.dcm", stored),
        NumberOfFrames="4",
        PerFrameFunctionalGroupsSequence=Sequence(groups),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    read = decoded(path, (4, 4, 4), window=(0, 100))
    np.testing.assert_array_equal(read[:, 2, 2], [10, 22, 36, 52])
    assert (read == read[:, :1, :1]).all()  # 2 x 4 pixels, twice as high as wide, fill the square
    assert decoded(path, (1, 4, 4), window=(0, 100))[0, 0, 0] == 36
    groups[0].PlanePositionSequence = item(ImagePositionPatient=["0", "0", "40"])
    written(
        *(path, stored),
        NumberOfFrames="4",
        PerFrameFunctionalGroupsSequence=Sequence(groups),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    with pytest.raises(Unreadable, match=r"^has 30 mm between frame 3 and x\.dcm, expected 5 mm"):
        decoded(path, (1, 4, 4), window=(0, 100))


def test_frames_without_a_place_must_be_as_many_as_the_channels(tmp_path):
    stored = RNG.integers(0, 256, (3, 4, 4), np.uint8)
    path = written(tmp_path / "x.dcm", stored, NumberOfFrames="3")
    np.testing.assert_array_equal(decoded(path, (3, 4, 4)), (stored / 255).astype(np.float32))
    with pytest.raises(
        Unreadable, match=r"^holds 3 grey frames, but the modality's shape declares 1 channel$"
    ):
        decoded(path, (1, 4, 4))
