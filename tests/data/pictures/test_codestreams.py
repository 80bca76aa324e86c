"""A compressed picture that is larger than its file says is refused before it is decoded."""

from __future__ import annotations

import contextlib
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.codestreams import check_codestream, check_rle, stated_size
from robustmdiff.data.pictures.dicom import read_dicom
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.tiff import read_tiff
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


def rle(*segments: bytes) -> bytes:
    starts = np.cumsum([64, *map(len, segments[:-1])]).tolist()
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


RUN, LITERAL = b"\x81\x07", b"\x03abcd"  # 128 times 7; four bytes


def test_run_lengths_that_are_longer_than_a_plane_are_refused():
    check_rle(rle(RUN + b"\x80", 32 * LITERAL), 16, 8)  # 128 bytes each, as 16 x 8 are
    check_rle(rle(2 * RUN), 16, 8)  # padding
    for segments in ([3 * RUN], [65 * LITERAL], [RUN, 2 * RUN + b"\x00\x07"]):
        with pytest.raises(
            Unreadable, match=r"segment of more than 256 bytes, expected 16 x 8 as its header"
        ):
            check_rle(rle(*segments), 16, 8)


def in_rle(path, pixels, frame=None):
    image = pydicom.dcmread(written(path, pixels))
    image.compress(RLELossless)
    if frame is not None:
        image.PixelData = encapsulate([frame])
    image.save_as(path, enforce_file_format=True)
    return path


def test_of_a_dicom_file_in_rle_before_it_is_decoded(tmp_path, monkeypatch):
    path = in_rle(tmp_path / "x.dcm", np.zeros((4, 4), np.uint8), rle(2**16 * RUN))
    monkeypatch.setattr(pydicom.pixels, "pixel_array", None)  # which would decode it
    with pytest.raises(Unreadable, match="run-length segment of more than 32 bytes, expected 4 x 4"):
        read_dicom(path, XRAY)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_dicom_file_in_rle_is_read(dtype, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (31, 17)).astype(dtype)
    stored = np.concatenate([noise, np.full((40, 17), 7, dtype)])
    found = read_dicom(in_rle(tmp_path / "x.dcm", stored), XRAY).pixels[0]
    np.testing.assert_allclose(found * np.iinfo(dtype).max, stored, atol=1e-2)


@given(st.binary(max_size=200), st.integers(1, 20))
def test_whatever_the_run_lengths_are_they_are_counted_as_they_decode(segment, most):
    from pydicom.pixels.decoders.rle import _rle_decode_segment

    try:
        check_rle(rle(segment), most, 1)
    except Unreadable:
        assert len(_rle_decode_segment(segment)) > 2 * most - 128  # a literal may be cut off
    else:
        assert len(_rle_decode_segment(segment)) <= 2 * most


@given(st.binary(max_size=100))
def test_whatever_an_rle_frame_is_it_ends(frame):
    with contextlib.suppress(Unreadable):
        check_rle(frame, 4, 4)
