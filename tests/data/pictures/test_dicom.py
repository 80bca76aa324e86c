"""DICOM: the files that pydicom ships, by values worked out from their bytes, and files written here."""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLSLossless

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.read import read_image
from tests.data.pictures.dicom import written

RNG = np.random.default_rng(2)
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")


def shipped(name):
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(path)


def decoded(path, shape, **modality):
    return read_image(path, Modality("m", "image", shape, **modality))


def raw_bytes(name):
    """Of an uncompressed file."""
    return np.frombuffer(pydicom.dcmread(shipped(name)).PixelData, np.uint8)


def raw(name, dtype):
    """The stored values, from the bytes."""
    header = pydicom.dcmread(shipped(name))
    return raw_bytes(name).view(dtype).reshape(header.Rows, header.Columns)


# -- files of pydicom


def test_ct_is_in_hounsfield_units():
    expected = raw("CT_small.dcm", "<i2").astype(np.float32) - 1024
    read = decoded(shipped("CT_small.dcm"), (1, 128, 128), window=(-1000, 400))
    np.testing.assert_array_equal(read[0], expected)
    with pytest.raises(
        Unreadable, match=r"^holds values from -896 to 1167, expected 0 to 1, the default window: decl"
    ):
        decoded(shipped("CT_small.dcm"), (1, 128, 128))
    with pytest.raises(Unreadable, match=r'^has no VOI window, which "window": "file" asks for$'):
        decoded(shipped("CT_small.dcm"), (1, 128, 128), window="file")


@pytest.mark.parametrize(
    "variant",
    ["", "_RLE", "_jp2klossless", "_jpeg_ls_lossless", "_bigendian", "_expb", "_implicit", "_padded"],
)
def test_every_lossless_transfer_syntax_gives_the_same(variant):
    expected = raw("MR_small.dcm", "<i2").astype(np.float32)
    read = decoded(shipped(f"MR_small{variant}.dcm"), (1, 64, 64), window=(0, 2000))
    np.testing.assert_array_equal(read[0], expected)


@pytest.mark.filterwarnings("ignore:The decoded RLE segment contains unexpected data")
def test_damaged_run_lengths_end_no_program(tmp_path):
    """The plugin in Rust panics on runs beyond the image, which no `except Exception` catches."""
    content = shipped("MR_small_RLE.dcm").read_bytes()
    start = content.rindex(b"\xfe\xff\x00\xe0") + 8 + 64  # of the first run
    path = tmp_path / "x.dcm"
    path.write_bytes(content[:start] + b"\x81\x00" * 200 + content[start + 400 :])  # runs of 128
    with suppress(Unreadable):
        decoded(path, (1, 64, 64), window=(-1e6, 1e6))
    path.write_bytes(content[:start] + b"\x00\x00" * 200 + content[start + 400 :])  # and of 1
    with pytest.raises(Unreadable, match=r"^is not a DICOM image that can be read"):
        decoded(path, (1, 64, 64), window=(-1e6, 1e6))


def test_a_deflated_file():
    expected = raw("image_dfl.dcm", np.uint8) / 255
    np.testing.assert_array_equal(
        decoded(shipped("image_dfl.dcm"), (1, 512, 512))[0], expected.astype(np.float32)
    )


BARS = {  # of the colour bars, by row
    5: (255, 0, 0),
    15: (255, 128, 128),
    25: (0, 255, 0),
    35: (128, 255, 128),
    45: (0, 0, 255),
    55: (128, 128, 255),
    65: (0, 0, 0),
    75: (64, 64, 64),
    85: (192, 192, 192),
    95: (255, 255, 255),
}


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("SC_rgb_rle", 0),
        ("SC_rgb_rle_16bit", 0),
        ("SC_rgb_rle_32bit", 0),
        ("SC_rgb_jpeg_gdcm", 0),  # lossless
        ("SC_rgb_gdcm_KY", 0),
        ("SC_rgb_dcmtk_+eb+cr", 1),  # these are lossy, by so much
        ("SC_rgb_dcmtk_+eb+cy+n1", 5),
        ("SC_rgb_dcmtk_+eb+cy+np", 5),
        ("SC_rgb_dcmtk_+eb+cy+s4", 5),
    ],
)
def test_colour_bars_in_every_coding(name, off):
    rgb = decoded(shipped(f"{name}.dcm"), (3, 100, 100))
    grey = decoded(shipped(f"{name}.dcm"), (1, 100, 100))
    for row, (r, g, b) in BARS.items():
        np.testing.assert_allclose(rgb[:, row, 50] * 255.0, (r, g, b), atol=off + 1e-4)
        assert grey[0, row, 50] * 255.0 == pytest.approx(0.299 * r + 0.587 * g + 0.114 * b, abs=off + 0.51)


def test_luminance_and_halved_chrominance_become_rgb():
    """PS3.3 C.7.6.3.1.2: two pixels in a row are Y1 Y2 Cb Cr."""
    y1, y2, cb, cr = (
        raw_bytes("SC_ybr_full_422_uncompressed.dcm").reshape(100, 50, 4).transpose(2, 0, 1).astype(float)
    )
    y = np.stack([y1, y2], -1).reshape(100, 100)
    cb, cr = (np.repeat(chroma, 2, 1) - 128 for chroma in (cb, cr))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb])
    read = decoded(shipped("SC_ybr_full_422_uncompressed.dcm"), (3, 100, 100))
    np.testing.assert_allclose(read * 255.0, rgb.round().clip(0, 255), atol=1.0001)


def test_a_palette_is_its_colours():
    header = pydicom.dcmread(shipped("examples_palette.dcm"))
    stored = np.frombuffer(header.PixelData, np.uint8).reshape(350, 800)
    names = ("Red", "Green", "Blue")
    tables = [np.frombuffer(header[f"{name}PaletteColorLookupTableData"].value, "<u2") for name in names]
    expected = np.stack([table[stored] for table in tables]) / 65535
    read = decoded(shipped("examples_palette.dcm"), (3, 350, 800))
    np.testing.assert_array_equal(read, expected.astype(np.float32))


def test_stored_bits_are_the_scale_and_the_file_s_window_only_where_asked():
    name, shape = "examples_overlay.dcm", (1, 300, 484)
    stored = raw(name, "<u2") & 0x0FFF
    np.testing.assert_array_equal(decoded(shipped(name), shape)[0], (stored / 4095).astype(np.float32))
    np.testing.assert_array_equal(
        decoded(shipped(name), shape, window=(0, 1000))[0], stored.astype(np.float32)
    )
    # PS3.3 C.11.2.1.2.1 with the first of two windows, centre 450 and width 790
    expected = ((stored - 449.5) / 789 + 0.5).clip(0, 1)
    np.testing.assert_allclose(decoded(shipped(name), shape, window="file")[0], expected, atol=1e-6)


def test_frames_are_channels_or_refused():
    name = "examples_ybr_color.dcm"
    assert decoded(shipped(name), (30, 240, 320)).shape == (30, 240, 320)
    with pytest.raises(
        Unreadable, match=r"^holds 30 colour frames, but the modality's shape declares 3 channels$"
    ):
        decoded(shipped(name), (3, 240, 320))
    two = decoded(shipped("SC_rgb_rle_2frame.dcm"), (2, 100, 100))
    assert two[0, 5, 50] == np.float32(76 / 255)
    assert two[1, 5, 50] == np.float32(179 / 255)  # the second is the first, inverted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rtdose.dcm", r"^is a dose grid \(RTDOSE\), expected an image$"),
        ("liver_1frame.dcm", r"^is a segmentation \(SEG\), expected an image$"),
        ("rtplan.dcm", r"^holds no image \(its Modality is RTPLAN\), expected pixels$"),
        ("test-SR.dcm", r"^holds no image \(its Modality is SR\), expected pixels$"),
        ("no_meta.dcm", r"^is not DICOM \(no_meta\.dcm lacks the prefix 'DICM'\)$"),
        ("MR_truncated.dcm", r"^is not a DICOM image that can be read \("),
        ("JPEG-lossy.dcm", r"^is not a DICOM image that can be read \(Unable to decode"),
    ],
)
def test_what_is_no_image_is_refused(name, message):
    with pytest.raises(Unreadable, match=message) as error:
        decoded(shipped(name), (1, 64, 64), window=(-5000, 5000))
    assert "\n" not in str(error.value)


def test_no_shipped_file_raises_anything_else():
    for path in sorted(shipped("CT_small.dcm").parent.glob("*.dcm")):
        for window in ((0, 1), (-5000, 5000), "file"):
            with suppress(Unreadable):
                assert np.isfinite(decoded(path, (1, 8, 8), window=window)).all()


# -- files written here


TWELVE = RNG.integers(0, 4096, (6, 6), np.uint16)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_unsigned_counts_of_either_polarity(tmp_path, photometric, bits):
    end = 2**bits - 1
    stored = RNG.integers(0, end + 1, (6, 6)).astype(np.uint8 if bits == 8 else np.uint16)
    path = written(tmp_path / "x.dcm", stored, BitsStored=bits, PhotometricInterpretation=photometric)
    light = stored if photometric == "MONOCHROME2" else end - stored
    np.testing.assert_allclose(decoded(path, (1, 6, 6))[0], light / end, atol=1e-7)
    np.testing.assert_array_equal(decoded(path, (1, 6, 6), window=(0, end))[0], light)


def test_bits_declared_are_fewer_than_those_stored(tmp_path):
    path = written(tmp_path / "x.dcm", TWELVE)
    np.testing.assert_array_equal(decoded(path, (1, 6, 6), bits=12)[0], (TWELVE / 4095).astype(np.float32))
    with pytest.raises(Unreadable, match=r'as "bits": 8 declares$'):
        decoded(path, (1, 6, 6), bits=8)


def test_only_the_stored_bits_of_a_cell_count(tmp_path):
    overlay = TWELVE | (RNG.integers(0, 16, (6, 6), np.uint16) << 12)
    path = written(tmp_path / "x.dcm", overlay, BitsStored=12)
    np.testing.assert_array_equal(decoded(path, (1, 6, 6))[0], (TWELVE / 4095).astype(np.float32))
    path = written(tmp_path / "x.dcm", (TWELVE << 4) | 5, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(decoded(path, (1, 6, 6))[0], (TWELVE / 4095).astype(np.float32))


def test_signed_counts_of_twelve_bits(tmp_path):
    values = RNG.integers(-2048, 2048, (6, 6)).astype(np.int16)
    cells = (values & 0x0FFF).astype(np.int16)  # the sign is in bit 11 alone
    for stored in (values, cells):
        path = written(tmp_path / "x.dcm", stored, BitsStored=12)
        np.testing.assert_array_equal(decoded(path, (1, 6, 6), window=(-2000, 2000))[0], values)
    path = written(tmp_path / "x.dcm", values, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(decoded(path, (1, 6, 6), window=(-2000, 2000))[0], -1 - values.astype(int))
    with pytest.raises(Unreadable, match=r"expected 0 to 1, the default window"):
        decoded(path, (1, 6, 6))


def test_a_rescale_is_applied_and_its_range_inverted(tmp_path):
    fields = {"BitsStored": 12, "RescaleSlope": "0.5", "RescaleIntercept": "-100"}
    path = written(tmp_path / "x.dcm", TWELVE, **fields)
    np.testing.assert_array_equal(decoded(path, (1, 6, 6), window=(-100, 2000))[0], TWELVE * 0.5 - 100)
    path = written(tmp_path / "x.dcm", TWELVE, **fields, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(
        decoded(path, (1, 6, 6), window=(-100, 2000))[0], (4095 - TWELVE) * 0.5 - 100
    )
    for unit in ({"RescaleType": "HU"}, {"Modality": "CT"}):
        path = written(tmp_path / "x.dcm", TWELVE, **fields, PhotometricInterpretation="MONOCHROME1", **unit)
        with pytest.raises(
            Unreadable, match=r"^is MONOCHROME1 in a unit of its own, which inverting would spoil$"
        ):
            decoded(path, (1, 6, 6), window=(-100, 2000))
    path = written(tmp_path / "x.dcm", TWELVE, RescaleSlope="0", RescaleIntercept="1")
    with pytest.raises(Unreadable, match=r"^has RescaleSlope 0 and RescaleIntercept 1, expected a scale$"):
        decoded(path, (1, 6, 6))


def test_a_modality_table_is_applied(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.add_new("LUTData", "US", [3 * n for n in range(256)])
    stored = RNG.integers(0, 256, (6, 6), np.uint8)
    path = written(tmp_path / "x.dcm", stored, ModalityLUTSequence=Sequence([table]))
    np.testing.assert_array_equal(decoded(path, (1, 6, 6), window=(0, 700))[0], 3.0 * stored)


def sigmoid(x, c, w):
    return 1 / (1 + math.exp(-4 * (x - c) / w))


def linear(x, c, w):
    if x <= c - 0.5 - (w - 1) / 2:
        return 0
    return 1 if x > c - 0.5 + (w - 1) / 2 else (x - (c - 0.5)) / (w - 1) + 0.5


def linear_exact(x, c, w):
    return 0 if x <= c - w / 2 else 1 if x > c + w / 2 else (x - c) / w + 0.5


@pytest.mark.parametrize("function", [linear, linear_exact, sigmoid])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("width", [1, 2, 400])
def test_the_functions_of_the_window(tmp_path, function, photometric, width):
    stored = np.arange(800, 1025).reshape(15, 15).astype(np.int16)
    path = written(
        *(tmp_path / "x.dcm", stored),
        **{"RescaleSlope": "1", "RescaleIntercept": "-900", "WindowCenter": ["40", "9"]},
        **{"WindowWidth": [str(width), "9"], "VOILUTFunction": function.__name__.upper()},
        PhotometricInterpretation=photometric,
    )
    expected = np.array([[function(float(x) - 900, 40, width) for x in row] for row in stored])
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(decoded(path, (1, 15, 15), window="file")[0], expected, atol=1e-6)


def test_a_voi_table_serves_where_there_is_no_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [256, 10, 12]
    table.add_new("LUTData", "US", [4095 - 16 * n for n in range(256)])
    stored = RNG.integers(0, 256, (6, 6), np.uint8)
    path = written(tmp_path / "x.dcm", stored, VOILUTSequence=Sequence([table]))
    expected = (4095 - 16 * (stored.astype(int) - 10).clip(0, 255)) / 4095
    np.testing.assert_allclose(decoded(path, (1, 6, 6), window="file")[0], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"WindowCenter": "4", "WindowWidth": "0"}, r"^has WindowWidth 0, expected 1 or more$"),
        (
            {"WindowCenter": "4", "WindowWidth": "9", "VOILUTFunction": "LOG"},
            r"^has VOILUTFunction 'LOG', expected LIN",
        ),
    ],
)
def test_a_window_that_is_none_is_refused(tmp_path, fields, message):
    with pytest.raises(Unreadable, match=message):
        decoded(written(tmp_path / "x.dcm", TWELVE, **fields), (1, 6, 6), window="file")


def test_colours_by_plane_or_by_pixel(tmp_path):
    rgb = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    expected = (np.moveaxis(rgb, -1, 0) / 255).astype(np.float32)
    by_pixel = written(tmp_path / "a.dcm", rgb)
    np.testing.assert_array_equal(decoded(by_pixel, (3, 6, 6)), expected)
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 0)).tobytes()
    by_plane = written(tmp_path / "b.dcm", rgb, PlanarConfiguration=1, PixelData=planes)
    np.testing.assert_array_equal(decoded(by_plane, (3, 6, 6)), expected)
    other = written(tmp_path / "c.dcm", rgb, PhotometricInterpretation="YBR_PARTIAL_420")
    with pytest.raises(Unreadable, match=r"YBR_PARTIAL_420"):
        decoded(other, (3, 6, 6))


def test_pixels_that_are_not_square(tmp_path):
    stored = np.full((4, 8), 255, np.uint8)
    path = written(tmp_path / "x.dcm", stored, PixelSpacing=["2", "1"])  # rows are 2 mm apart, columns 1 mm
    np.testing.assert_array_equal(decoded(path, (1, 8, 8)), np.ones((1, 8, 8), np.float32))
    path = written(tmp_path / "x.dcm", stored)
    assert decoded(path, (1, 8, 8))[0, :, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    path = written(tmp_path / "x.dcm", stored, PixelSpacing=["1", "0.001"])
    with pytest.raises(Unreadable, match=r"^has pixels 1000 times as high as wide, expected 0\.01 to 100$"):
        decoded(path, (1, 8, 8))


def test_annotation_in_the_pixels_is_warned_of_each_time(tmp_path):
    path = written(tmp_path / "x.dcm", TWELVE, BurnedInAnnotation="YES")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^x\.dcm says that annotation is burned into its pixels"):
            read_image(path, Modality("m", "image", (1, 6, 6)), tmp_path / "cache")
    path = written(tmp_path / "y.dcm", TWELVE, BurnedInAnnotation="NO")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded(path, (1, 6, 6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Rows": 60000, "Columns": 60000}, r"^is 60000 x 60000 pixels, expected at most"),
        ({"NumberOfFrames": "2000000000"}, r"^says that it holds 2000000000 frames, expected 1 to 65536$"),
        ({"Rows": 7}, r"^is not a DICOM image that can be read"),
        ({"BitsStored": 17}, r"^(has 16 bits allocated, 17 stored|is not a DICOM image)"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, fields, message):
    path = written(tmp_path / "x.dcm", TWELVE, **fields)
    with pytest.raises(Unreadable, match=message) as error:
        decoded(path, (1, 6, 6))
    assert "Doe" not in str(error.value)
    assert "12345" not in str(error.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "x.dcm", TWELVE)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(
        Unreadable, match=r"^needs the package 'pydicom' to be read: pip install 'robustmdiff\[clinical\]'$"
    ):
        decoded(path, (1, 6, 6))


def test_a_missing_decoder_is_named(monkeypatch):
    decoder = get_decoder(JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0", "pylibjpeg-libjpeg>=2.1")})
    with pytest.raises(
        Unreadable, match=r"^is not a DICOM .*'JPEG-LS Lossless.*requires .*pylibjpeg-libjpeg>=2\.1\)$"
    ):
        decoded(shipped("MR_small_jpeg_ls_lossless.dcm"), (1, 64, 64), window=(0, 2000))
