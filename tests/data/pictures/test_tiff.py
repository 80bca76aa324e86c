"""TIFF of every depth, polarity, number of channels and frames, by its exact value."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.tiff import read_tiff
from tests.data.pictures.test_bitmaps import grey_of, seen

RNG = np.random.default_rng(1)


def decoded(path, channels=1, bits=None, share=True):
    raster = read_tiff(path, Modality("m", "image", (channels, 4, 4), bits=bits))
    assert raster.is_share is share
    assert raster.pixels.dtype == np.float32
    return raster.pixels


def written(tmp_path, array, **options):
    tifffile.imwrite(tmp_path / "x.tif", array, **options)
    return tmp_path / "x.tif"


COMPRESSIONS = [None, "lzw", "deflate", "packbits", "zstd"]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_grey_of_either_polarity(tmp_path, dtype, photometric, compression):
    end = int(np.iinfo(dtype).max)
    stored = RNG.integers(0, end, (5, 7), dtype, endpoint=True)
    path = written(tmp_path, stored, photometric=photometric, compression=compression)
    light = stored if photometric == "minisblack" else end - stored
    np.testing.assert_array_equal(decoded(path)[0], (light / end).astype(np.float32))


@pytest.mark.parametrize(("interpretation", "mode"), [(0, "1;I"), (1, "1")])
def test_one_bit_of_either_polarity(tmp_path, interpretation, mode):
    light = RNG.random((5, 9)) < 0.5
    Image.fromarray(light).save(tmp_path / "x.tif", tiffinfo={262: interpretation})
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert (file.pages[0].bitspersample, file.pages[0].photometric) == (1, interpretation)
    np.testing.assert_array_equal(decoded(tmp_path / "x.tif")[0], light.astype(np.float32))


def test_bits_packed_by_twelve(tmp_path):
    stored = RNG.integers(0, 4096, (4, 6), np.uint16)
    bits = ((stored[..., None] >> np.arange(11, -1, -1)) & 1).astype(np.uint8)
    content = np.packbits(bits.reshape(4, -1), axis=1).tobytes()
    tags = [
        (256, 6),
        (257, 4),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 4),
        (279, len(content)),
    ]
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    ifd = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
    )
    (tmp_path / "x.tif").write_bytes(head + content + ifd + bytes(4))
    np.testing.assert_array_equal(decoded(tmp_path / "x.tif")[0], (stored / 4095).astype(np.float32))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_colour_whichever_way_it_is_laid(tmp_path, dtype, planar, order):
    end = int(np.iinfo(dtype).max)
    rgb = RNG.integers(0, end, (5, 4, 3), dtype, endpoint=True)
    stored = rgb if planar == "contig" else np.moveaxis(rgb, -1, 0)
    path = written(
        tmp_path, stored.astype(f"{order}{dtype}"), photometric="rgb", planarconfig=planar, byteorder=order
    )
    np.testing.assert_array_equal(decoded(path, 3), (np.moveaxis(rgb, -1, 0) / end).astype(np.float32))
    np.testing.assert_array_equal(decoded(path)[0], (grey_of(rgb) / end).astype(np.float32))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_transparency_is_black(tmp_path, dtype):
    end = int(np.iinfo(dtype).max)
    rgba = RNG.integers(0, end, (5, 4, 4), dtype, endpoint=True)
    path = written(tmp_path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    expected = np.moveaxis(seen(rgba[..., :3], rgba[..., 3:].astype(object), end), -1, 0) / end
    np.testing.assert_array_equal(decoded(path, 3), expected.astype(np.float32))
    path = written(tmp_path, rgba, photometric="rgb", extrasamples=["assocalpha"])  # multiplied by it already
    np.testing.assert_array_equal(
        decoded(path, 3), (np.moveaxis(rgba[..., :3], -1, 0) / end).astype(np.float32)
    )
    path = written(tmp_path, rgba, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(
        Unreadable, match=r"^has 4 samples per pixel in RGB, of which 1 extra, expected 3 and at most"
    ):
        decoded(path, 3)


def test_a_palette_of_16_bits_is_its_colours(tmp_path):
    colours = RNG.integers(0, 65536, (3, 256), np.uint16)
    stored = RNG.integers(0, 256, (4, 4), np.uint8)
    path = written(tmp_path, stored, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(decoded(path, 3), (colours[:, stored] / 65535).astype(np.float32))
    path = written(tmp_path, stored, photometric="palette", colormap=colours >> 8)
    with pytest.raises(Unreadable, match=r"^has a palette that ends at 255, expected colours of 16 bits"):
        decoded(path, 3)


def test_a_jpeg_inside_is_rgb(tmp_path):
    rgb = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    path = written(tmp_path, rgb, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric.name == "YCBCR"
    np.testing.assert_allclose(decoded(path, 3)[:, 0, 0] * 255, (200, 100, 50), atol=1)
    Image.fromarray(rgb).save(path, compression="jpeg", quality=95)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric.name == "RGB"
    np.testing.assert_allclose(decoded(path, 3)[:, 0, 0] * 255, (200, 100, 50), atol=1)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_twelve_bits_in_sixteen(tmp_path, photometric):
    stored = RNG.integers(0, 4096, (5, 5), np.uint16)
    path = written(tmp_path, stored, photometric=photometric)
    light = stored if photometric == "minisblack" else 4095 - stored
    np.testing.assert_array_equal(decoded(path, bits=12)[0], (light / 4095).astype(np.float32))
    with pytest.raises(Unreadable, match=r'as "bits": 10 declares$'):
        decoded(path, bits=10)


def test_a_greatest_sample_is_no_scale(tmp_path):
    stored = RNG.integers(0, 2000, (5, 5), np.uint16)
    path = written(tmp_path, stored, extratags=[(341, 3, 1, 2040, True)])
    with pytest.raises(
        Unreadable, match=r"^has SMaxSampleValue 2040, which may be its scale or its own brightest"
    ):
        decoded(path)
    np.testing.assert_array_equal(decoded(path, bits=12)[0], (stored / 4095).astype(np.float32))
    path = written(tmp_path, stored, extratags=[(341, 3, 1, 65535, True)])
    np.testing.assert_array_equal(decoded(path)[0], (stored / 65535).astype(np.float32))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f2", "f4", "f8"])
def test_signed_and_floating_samples_keep_their_unit(tmp_path, dtype):
    stored = RNG.integers(-100, 100, (5, 5)).astype(dtype)
    np.testing.assert_array_equal(
        decoded(written(tmp_path, stored), share=False)[0], stored.astype(np.float32)
    )


def test_pages_are_channels_or_refused(tmp_path):
    stored = RNG.integers(0, 65536, (3, 5, 4), np.uint16)
    path = written(tmp_path, stored, photometric="minisblack")
    np.testing.assert_array_equal(decoded(path, 3), (stored / 65535).astype(np.float32))
    with pytest.raises(
        Unreadable, match=r"^holds 3 grey frames, but the modality's shape declares 1 channel$"
    ):
        decoded(path)
    floats = written(tmp_path, stored.astype(np.float32), photometric="minisblack")
    np.testing.assert_array_equal(decoded(floats, 3, share=False), stored.astype(np.float32))
    with pytest.raises(
        Unreadable, match=r"^holds 3 grey frames, but the modality's shape declares 2 channels$"
    ):
        decoded(floats, 2)


def test_a_thumbnail_and_a_mask_are_no_frames(tmp_path):
    stored = RNG.integers(0, 256, (8, 8), np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(stored, photometric="minisblack")
        file.write(stored[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(decoded(tmp_path / "x.tif")[0], (stored / 255).astype(np.float32))


def test_pages_that_differ_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.zeros((4, 4), np.uint8), photometric="minisblack")
        file.write(np.zeros((4, 4), np.uint8), photometric="miniswhite")
    with pytest.raises(Unreadable, match=r"^has pages that differ in photometric, expected frames alike$"):
        decoded(tmp_path / "x.tif", 2)


def test_frames_outside_pages_are_not_lost(tmp_path):
    """As ImageJ and `truncate` write a stack: one page, the other frames behind its pixels."""
    stack = RNG.integers(0, 256, (3, 8, 8), np.uint8)
    for options in ({"imagej": True}, {"metadata": {"axes": "ZYX"}}):
        path = written(tmp_path, stack, truncate=True, photometric="minisblack", **options)
        with pytest.raises(Unreadable, match=r"^keeps frames outside its pages"):
            decoded(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_followed(tmp_path, orientation):
    stored = RNG.integers(0, 256, (2, 3), np.uint8)
    path = written(tmp_path, stored, extratags=[(274, 3, 1, orientation, True)], photometric="minisblack")
    x = stored / 255
    turned = [x, x[:, ::-1], x[::-1, ::-1], x[::-1], x.T, np.rot90(x, -1), x[::-1, ::-1].T, np.rot90(x)]
    np.testing.assert_array_equal(decoded(path)[0], turned[orientation - 1].astype(np.float32))


REFUSED = {
    "CMYK": (
        {"data": np.zeros((4, 4, 4), np.uint8), "photometric": "separated"},
        "^is in SEPARATED colours, expected",
    ),
    "Lab": (
        {"data": np.zeros((4, 4, 3), np.uint8), "photometric": "cielab"},
        "^is in CIELAB colours, expected greyscale",
    ),
    "complex": (
        {"data": np.zeros((4, 4), np.complex64)},
        "^holds complex64 samples, expected whole or floating",
    ),
    "floating colours": (
        {"data": np.zeros((4, 4, 3), np.float32), "photometric": "rgb"},
        "^holds float32 samples in RGB",
    ),
    "inverted floats": (
        {"data": np.zeros((4, 4), np.float32), "photometric": "miniswhite"},
        "samples in MINISWHITE colo",
    ),
    "five samples": (
        {"data": np.zeros((4, 4, 5), np.uint8), "photometric": "minisblack", "planarconfig": "contig"},
        "has 5 sa",
    ),
    "of several depths in one": (
        {
            "data": np.zeros((2, 4, 4), np.uint8),
            "photometric": "minisblack",
            "volumetric": True,
            "tile": (16, 16, 16),
        },
        "^keeps frames outside",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_the_rest_is_refused(tmp_path, options, message):
    path = written(tmp_path, options.pop("data"), **options)
    with pytest.raises(Unreadable, match=message):
        decoded(path)


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (2**31, 2**31), (1, 2**27)])
def test_a_header_of_gigabytes_is_refused_before_anything_is_allocated(tmp_path, width, height):
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 2**31),
    ]
    ifd = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
    )
    (tmp_path / "x.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + ifd + bytes(4))
    with pytest.raises(
        Unreadable, match=rf"^is {width} x {height} pixels, expected at most 67,108,864 in all$"
    ):
        decoded(tmp_path / "x.tif")


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\x08\0\0\0", b"MM\0*" + bytes(99)])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(Unreadable):
        decoded(tmp_path / "x.tif")


def test_a_truncated_file_is_refused(tmp_path):
    path = written(tmp_path, RNG.integers(0, 256, (64, 64), np.uint8), compression="lzw")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(Unreadable, match="is not an image that can be read"):
        decoded(path)
