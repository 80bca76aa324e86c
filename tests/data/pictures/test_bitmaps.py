"""PNG, JPEG, GIF, WebP and BMP: every format, depth, number of channels and frames, by its exact value."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.bitmaps import _png_header, read_bitmap
from robustmdiff.data.pictures.raster import Unreadable
from tests.data.pictures.png import chunk, write_png

RNG = np.random.default_rng(0)


def decoded(path, channels=1, bits=None):
    raster = read_bitmap(path, Modality("m", "image", (channels, 4, 4), bits=bits))
    assert raster.is_share
    assert raster.pixels.dtype == np.float32
    return raster.pixels


def grey_of(rgb):
    """By the definition, in whole numbers: BT.601 with weights in 65536ths, rounded to a count."""
    return np.array(
        [[(r * 19595 + g * 38470 + b * 7471 + 32768) // 65536 for r, g, b in row] for row in rgb.tolist()]
    )


def seen(counts, alpha, end):
    return np.array((counts.astype(object) * alpha + end // 2) // end, dtype=np.int64)


KINDS = [
    (depth, samples) for samples in (1, 2, 3, 4) for depth in (1, 2, 4, 8, 16) if depth >= 8 or samples == 1
]


@pytest.mark.parametrize(("depth", "samples"), KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_of_any_depth_and_channels(tmp_path, depth, samples, channels):
    end = 2**depth - 1
    stored = RNG.integers(0, end + 1, (5, 7, samples))
    path = write_png(tmp_path / "x.png", stored, depth)
    colour = stored[..., : 1 if samples < 3 else 3]
    if samples in (2, 4):
        colour = seen(colour, stored[..., -1:], end)
    if channels == 3 and samples < 3:
        with pytest.raises(
            Unreadable, match=r"^holds one grey frame, but the modality's shape declares 3 channels$"
        ):
            decoded(path, channels)
        return
    expected = np.moveaxis(colour, -1, 0) if channels == 3 or samples < 3 else grey_of(colour)[None]
    np.testing.assert_array_equal(decoded(path, channels), (expected / end).astype(np.float32))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("depth", [8, 16])
def test_an_interlaced_png(tmp_path, samples, depth):
    stored = RNG.integers(0, 2**depth, (13, 11, samples))
    path = write_png(tmp_path / "x.png", stored, depth, interlaced=True)
    expected = np.moveaxis(stored, -1, 0) / (2**depth - 1)
    np.testing.assert_array_equal(decoded(path, samples), expected.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_png_of_16_bits_comes_back_whole(tmp_path_factory, data):
    samples = data.draw(st.sampled_from([1, 3]))
    height, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    many = height * width * samples
    stored = np.array(data.draw(st.lists(st.integers(0, 65535), min_size=many, max_size=many)))
    stored = stored.reshape(height, width, samples)
    path = write_png(tmp_path_factory.getbasetemp() / "any.png", stored)
    back = np.rint(decoded(path, samples) * 65535.0).astype(int)
    np.testing.assert_array_equal(np.moveaxis(back, 0, -1), stored)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_twelve_bits_in_sixteen_keep_all_their_levels(tmp_path, samples):
    """Case 01: the lower byte was lost, and 4096 levels were 16."""
    ramp = np.arange(4096).reshape(64, 64, 1)
    stored = np.repeat(ramp, 1 if samples < 3 else 3, 2)
    if samples in (2, 4):
        stored = np.concatenate([stored, np.full_like(ramp, 65535)], 2)
    path = write_png(tmp_path / "x.png", stored)
    for bits, end in ((None, 65535), (16, 65535), (12, 4095)):
        expected = (ramp[..., 0] / end).astype(np.float32)
        np.testing.assert_array_equal(decoded(path, bits=bits)[0], expected)
    with pytest.raises(Unreadable, match=r'^holds 4095, expected at most 2047 as "bits": 11 declares$'):
        decoded(path, bits=11)


@pytest.mark.parametrize("top", [2040, 2047, 2048, 4095, 4096, 20000])
def test_one_hot_pixel_leaves_the_others_as_they_are(tmp_path, top):
    """Case 03: the divisor followed each picture's own maximum."""
    counts = np.full((8, 8), 1000, np.uint16)
    counts[0, 0] = top
    Image.fromarray(counts).save(tmp_path / "x.png")
    assert decoded(tmp_path / "x.png")[0, 4, 4] == np.float32(1000 / 65535)
    if top < 4096:
        assert decoded(tmp_path / "x.png", bits=12)[0, 4, 4] == np.float32(1000 / 4095)
    else:
        with pytest.raises(Unreadable, match=rf'^holds {top}, expected at most 4095 as "bits": 12 declares$'):
            decoded(tmp_path / "x.png", bits=12)


def test_eight_bits_are_not_touched_by_the_bits_of_deeper_files(tmp_path):
    stored = RNG.integers(0, 256, (3, 3, 1))
    path = write_png(tmp_path / "x.png", stored, 8)
    np.testing.assert_array_equal(decoded(path, bits=12)[0], (stored[..., 0] / 255).astype(np.float32))


TWELVE = RNG.integers(0, 4096, (6, 6, 3))
SCALED = {
    "zeros below": TWELVE << 4,
    "bits repeated": (TWELVE << 4) | (TWELVE >> 8),
    "rounded": np.rint(TWELVE * (65535 / 4095)).astype(int),
}


@pytest.mark.parametrize("stored", SCALED.values(), ids=SCALED.keys())
def test_significant_bits_are_the_upper_ones(tmp_path, stored):
    path = write_png(tmp_path / "x.png", stored, chunks={b"sBIT": bytes([12, 12, 12])})
    np.testing.assert_array_equal(decoded(path, 3), np.moveaxis(TWELVE / 4095, -1, 0).astype(np.float32))


def test_significant_bits_that_the_samples_contradict(tmp_path):
    path = write_png(tmp_path / "x.png", TWELVE, chunks={b"sBIT": bytes([12, 12, 12])})
    with pytest.raises(
        Unreadable, match=r'no sample of 12 bits scaled to 16 as its sBIT says; .*declare "bits": 12'
    ):
        decoded(path, 3)
    np.testing.assert_array_equal(
        decoded(path, 3, bits=12), np.moveaxis(TWELVE / 4095, -1, 0).astype(np.float32)
    )
    path = write_png(tmp_path / "x.png", TWELVE, chunks={b"sBIT": bytes([12, 11, 12])})
    with pytest.raises(Unreadable, match=r"^has sBIT \[12, 11, 12\], expected one number"):
        decoded(path, 3)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_black(tmp_path, depth):
    """Pillow compares it with the scaled samples below 8 bits."""
    end = 2**depth - 1
    stored = RNG.integers(0, end + 1, (4, 4, 1))
    stored[0, 0], stored[0, 1] = end, end - 1
    path = write_png(tmp_path / "x.png", stored, depth, {b"tRNS": struct.pack(">H", end)})
    expected = np.where(stored == end, 0, stored)[..., 0] / end
    np.testing.assert_array_equal(decoded(path)[0], expected.astype(np.float32))


def test_a_transparent_colour_of_16_bits_is_black(tmp_path):
    stored = np.array([[[1, 2, 3], [4, 5, 6]]])
    path = write_png(tmp_path / "x.png", stored, chunks={b"tRNS": struct.pack(">3H", 4, 5, 6)})
    assert (decoded(path, 3) * 65535.0).round().tolist() == [[[1, 0]], [[2, 0]], [[3, 0]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [8, 16])
def test_exif_turns_a_picture(tmp_path, orientation, depth):
    stored = RNG.integers(0, 256, (2, 3, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    path = write_png(tmp_path / "x.png", stored, depth, {b"eXIf": content})
    x = stored[..., 0]
    turned = {
        1: x,
        2: x[:, ::-1],
        3: x[::-1, ::-1],
        4: x[::-1],
        5: x.T,
        6: np.rot90(x, -1),
        7: x[::-1, ::-1].T,
        8: np.rot90(x),
    }[orientation]
    np.testing.assert_array_equal(np.rint(decoded(path)[0] * np.float64(2**depth - 1)), turned)


FRAMES = RNG.integers(0, 256, (3, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("png", {}), ("webp", {"lossless": True})])
def test_frames_are_channels_or_refused(tmp_path, suffix, options):
    images = [Image.fromarray(frame) for frame in FRAMES]
    path = tmp_path / f"x.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=40, **options)
    np.testing.assert_array_equal(decoded(path, 3), FRAMES.astype(np.float32) / 255)
    for channels in (1, 2, 4):
        with pytest.raises(
            Unreadable, match=rf"^holds 3 colour frames, but the modality's shape declares {channels} ch"
        ):
            decoded(path, channels)


def second_image(content):
    return content[content.index(b"\xff\xd8", 2) :]


def test_a_camera_s_preview_is_no_frame_but_a_second_view_is(tmp_path):
    first, second = (Image.fromarray(np.full((16, 16), grey, np.uint8)) for grey in (200, 50))
    path = tmp_path / "x.jpg"
    first.save(path, format="MPO", save_all=True, append_images=[second])
    content = path.read_bytes()
    with Image.open(path) as image:
        kinds = [entry["Attribute"]["MPType"] for entry in image.mpinfo[0xB002]]
    assert (image.format, kinds) == ("MPO", ["Baseline MP Primary Image", "Undefined"])
    np.testing.assert_array_equal(decoded(path), np.full((1, 16, 16), 200 / 255, np.float32))
    primary, size = struct.pack("<I", 0x030000), content.index(second_image(content))
    attribute = content.index(primary + struct.pack("<I", size)) + 16  # of the second entry
    disparity = content[:attribute] + struct.pack("<I", 0x020002) + content[attribute + 4 :]
    path.write_bytes(disparity)
    with pytest.raises(Unreadable, match=r"^holds 2 "):
        decoded(path)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp"])
def test_a_palette_is_its_colours(tmp_path, suffix):
    rgb = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 80, 200]]], np.uint8)
    Image.fromarray(rgb).quantize(4).save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(
        decoded(tmp_path / f"x.{suffix}", 3), np.moveaxis(rgb / 255, -1, 0).astype(np.float32)
    )
    np.testing.assert_array_equal(
        decoded(tmp_path / f"x.{suffix}"), (grey_of(rgb) / 255).astype(np.float32)[None]
    )


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
@pytest.mark.parametrize("suffix", ["bmp", "png", "webp"])
def test_the_modes_of_eight_bits(tmp_path, mode, suffix):
    rgb = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert(mode)
    rgb.save(tmp_path / f"x.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    expected = np.asarray(rgb.convert("L"), np.float32)[None] / 255
    np.testing.assert_array_equal(decoded(tmp_path / f"x.{suffix}"), expected)


REFUSED = {
    "CMYK": (
        lambda p: Image.new("CMYK", (4, 4)).save(p, format="JPEG"),
        "^is in CMYK colours, expected greyscale",
    ),
    "cut": (
        lambda p: p.write_bytes(write_png(p, np.ones((9, 9, 3))).read_bytes()[:60]),
        "is not an image that can",
    ),
    "cut, 8 bits": (
        lambda p: p.write_bytes(write_png(p, RNG.integers(0, 9, (99, 99, 3)), 8).read_bytes()[:900]),
        "not an",
    ),
    "huge": (
        lambda p: write_png(p, np.ones((1, 1, 3)), size=(60000, 60000)),
        "^is 60000 x 60000 pixels, expected at m",
    ),
    "huge, 8 bits": (
        lambda p: write_png(p, np.ones((1, 1, 1)), 8, size=(9000, 9000)),
        "^is 9000 x 9000 pixels, expec",
    ),
    "huge, 1 bit": (
        lambda p: write_png(p, np.ones((1, 1, 1)), 1, size=(2**31 - 1, 2**31 - 1)),
        "not an image that can",
    ),
    "taller than said": (
        lambda p: write_png(p, np.ones((2, 4, 3)), size=(4, 4)),
        "is not an image that can be read",
    ),
    "animated, 16 bits": (
        lambda p: write_png(p, np.ones((2, 2, 1)), chunks={b"acTL": struct.pack(">II", 2, 0)}),
        "^is an animated PNG of 16 bits, expected one frame$",
    ),
    "16-bit PGM": (lambda p: p.write_bytes(b"P5 2 2 4095\n" + bytes(8)), "is not an image that can be read"),
    "EPS": (
        lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "is not an image that can be",
    ),
    "nothing": (lambda p: p.write_bytes(b""), "is not an image that can be read"),
    "PNG without a header": (
        lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b"")),
        "is not an image that can be read",
    ),
}


@pytest.mark.parametrize(("write", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_the_rest_is_refused(tmp_path, write, message):
    write(tmp_path / "x.png")
    with pytest.raises(Unreadable, match=message) as error:
        decoded(tmp_path / "x.png")
    assert "\n" not in str(error.value)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_damaged_png_is_read_or_refused_and_never_else(tmp_path_factory, data):
    path = write_png(tmp_path_factory.getbasetemp() / "hurt.png", np.arange(48).reshape(4, 4, 3), 16)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(8, len(content)))]))
    try:
        pixels = decoded(path)
    except Unreadable:
        return
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_the_chunks_that_count_are_found_wherever_they_are(tmp_path):
    path = write_png(tmp_path / "x.png", np.ones((2, 2, 1)), chunks={b"tEXt": bytes(99), b"sBIT": b"\x0c"})
    content = path.read_bytes()
    path.write_bytes(content.removesuffix(chunk(b"IEND", b"")) + chunk(b"eXIf", b"abc") + chunk(b"IEND", b""))
    header = _png_header(path)
    assert (header.width, header.height, header.depth, header.colour) == (2, 2, 16, 0)
    assert (header.chunks[b"sBIT"], header.chunks[b"eXIf"]) == (b"\x0c", b"abc")


def test_text_that_inflates_is_not_read(tmp_path):
    bomb = b"Comment\0\0" + zlib.compress(bytes(2**26))
    path = write_png(tmp_path / "x.png", np.full((2, 2, 3), 65535), chunks={b"zTXt": bomb})
    np.testing.assert_array_equal(decoded(path), np.ones((1, 2, 2), np.float32))
