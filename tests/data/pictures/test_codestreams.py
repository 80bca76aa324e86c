"""A compressed picture that is larger than its file says is refused before it is decoded."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

from robustmdiff.data.pictures.codestreams import check_codestream, stated_size
from robustmdiff.data.pictures.dicom import read_dicom
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.tiff import read_tiff
from robustmdiff.data.task import Modality
from tests.data.pictures.dicom import written


def jpeg_2000(x: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(x, codecformat="j2k", reversible=True)


ENCODE = {
    "jpeg": (imagecodecs.jpeg8_encode, JPEGBaseline8Bit),
    "jpeg-ls": (imagecodecs.jpegls_encode, JPEGLSLossless),
    "jpeg 2000": (
        lambda x: imagecodecs.jpeg2k_encode(x, codecformat="j2k", reversible=True),
        JPEG2000Lossless,
    ),
}
XRAY = Modality("xray", "image", shape=(1, 4, 4))
KINDS = pytest.mark.parametrize("kind", ENCODE)


def stream(kind, width, height) -> bytes:
    return ENCODE[kind][0](np.zeros((height, width), np.uint8))


@KINDS
@pytest.mark.parametrize(("width", "height"), [(1, 1), (4, 300), (1000, 17)])
def test_it_says_its_size(kind, width, height):
    assert stated_size(stream(kind, width, height)) == (width, height)


def test_so_does_a_jp2_file():
    assert stated_size(imagecodecs.jpeg2k_encode(np.zeros((7, 9), np.uint8), codecformat="jp2")) == (9, 7)


@KINDS
def test_what_is_larger_than_its_header_is_refused(kind):
    check_codestream(stream(kind, 16, 16), 16, 16)
    check_codestream(stream(kind, 16, 16), 9, 3)  # whole blocks
    with pytest.raises(Unreadable, match=r"holds a compressed picture of 17 x 16 pixels, expected 16 x 16"):
        check_codestream(stream(kind, 17, 16), 16, 16)


@KINDS
def test_of_a_dicom_file_before_it_is_decoded(kind, tmp_path, monkeypatch):
    path = written(tmp_path / "x.dcm", np.zeros((4, 4), np.uint8))
    image = pydicom.dcmread(path)
    image.PixelData = encapsulate([stream(kind, 7000, 3)])
    image.file_meta.TransferSyntaxUID = ENCODE[kind][1]
    image.save_as(path, enforce_file_format=True)
    monkeypatch.setattr(pydicom.pixels, "pixel_array", None)  # which would decode it
    with pytest.raises(Unreadable, match="7000 x 3 pixels, expected 4 x 4 as its header says"):
        read_dicom(path, XRAY)


@KINDS
def test_a_dicom_file_that_says_what_it_holds_is_read(kind, tmp_path):
    path = written(tmp_path / "x.dcm", np.zeros((4, 4), np.uint8))
    image = pydicom.dcmread(path)
    image.PixelData = encapsulate([stream(kind, 4, 4)])
    image.file_meta.TransferSyntaxUID = ENCODE[kind][1]
    image.save_as(path, enforce_file_format=True)
    assert read_dicom(path, XRAY).pixels.shape == (1, 4, 4)


def test_of_a_tiff_file(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="jpeg")
    assert read_tiff(path, XRAY).pixels.shape == (1, 64, 64)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[tag].overwrite(4)
    with pytest.raises(Unreadable, match="64 x 64 pixels, expected 4 x 4 as its header says"):
        read_tiff(path, XRAY)


@given(st.sampled_from(sorted(ENCODE)), st.integers(0, 120), st.binary(max_size=60))
def test_whatever_follows_it_ends(kind, kept, more):
    found = stated_size(stream(kind, 8, 8)[:kept] + more)
    assert found is None or len(found) == 2
