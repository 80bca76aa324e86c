"""Fitting a picture to a modality's size: as if it were pasted on a black square and that resized."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustmdiff.data.pictures.raster import Unreadable, central_slices, check_size, fit, upright


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 60), st.integers(0, 2**31))
def test_it_is_what_the_whole_square_would_give(height, width, size, seed):
    picture = np.random.default_rng(seed).random((1, height, width), np.float32)
    side = max(height, width)
    square = Image.new("F", (side, side), 0.0)
    square.paste(Image.fromarray(picture[0]), ((side - width) // 2, (side - height) // 2))
    expected = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    fitted = fit(picture, size, size)
    assert (fitted.dtype, fitted.shape) == (np.float32, (1, size, size))
    assert np.abs(fitted[0] - expected).max() <= 2 * np.finfo(np.float32).eps  # Pillow rounds in between


def test_a_size_that_is_there_already_is_left_as_it_is():
    picture = np.random.default_rng(0).random((3, 7, 5), np.float32)
    assert fit(picture, 7, 5) is picture


def test_padding_is_what_is_asked_for():
    fitted = fit(np.full((2, 2, 4), 40, np.float32), 4, 4, fill=-1000)
    assert fitted[0, :, 0].tolist() == fitted[1, :, 3].tolist() == [-1000, 40, 40, -1000]


def test_the_proportions_of_the_pixels_are_kept():
    """A bell, sampled five times as densely from side to side, is as wide as high again."""
    y, x = np.mgrid[:20, :100]
    bell = np.exp(-((((y - 9.5) * 5) ** 2 + (x - 49.5) ** 2) / (2 * 12**2))).astype(np.float32)[None]
    fitted = fit(bell, 50, 50, tall=5.0)[0].astype(np.float64)
    away = (np.arange(50) - 24.5) ** 2
    high, wide = (away @ fitted.sum(axis) / fitted.sum() for axis in (1, 0))
    assert wide == pytest.approx(
        6**2 + (2**2 / 6) / 2**2, rel=0.01
    )  # the bell's own, and that of averaging over two
    assert high == pytest.approx(6**2 + (2.5**2) / 6, rel=0.01)  # and that of lines between samples 2.5 apart
    flat = fit(np.ones((1, 10, 10), np.float32), 10, 10, tall=0.5)[0]  # half as high as wide
    assert (flat[:2] == 0).all()
    assert (flat[4:6] == 1).all()
    assert flat.sum() == pytest.approx(50)


def test_a_field_of_other_proportions():
    fitted = fit(np.ones((1, 4, 4), np.float32), 4, 8)
    assert fitted[0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("shape", [(1, 60_000), (1, 200_000), (20_000, 300), (2**22, 1)])
def test_a_thin_picture_takes_no_more_than_its_own_size(shape):
    """Case 28: the square of 1 x 60000 took 14 GB."""
    import tracemalloc

    picture = np.ones((1, *shape), np.float32)
    tracemalloc.start()
    fitted = fit(picture, 64, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * picture.nbytes + 2**20
    share = min(shape) / max(shape) * 64  # of the square's width, in new pixels
    assert fitted.sum() == pytest.approx(64 * share, rel=0.02)


def test_sizes_are_bounded_before_decoding():
    check_size(8192, 8192)
    check_size(2**26, 1)
    with pytest.raises(Unreadable, match=r"^is 8193 x 8192 pixels, expected at most 67,108,864 in all$"):
        check_size(8193, 8192)
    with pytest.raises(Unreadable, match=r"^is 8192 x 4096 pixels in 3 frames, expected at most"):
        check_size(8192, 4096, 3)
    with pytest.raises(Unreadable, match=r"^is 0 x 5 pixels"):
        check_size(0, 5)


def test_the_central_slices_are_the_middles_of_equal_parts():
    assert central_slices(5, 1) == [2]
    assert central_slices(100, 1) == [50]
    assert central_slices(10, 2) == [2, 7]
    assert central_slices(155, 4) == [19, 58, 96, 135]
    assert central_slices(6, 6) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(Unreadable, match=r"^holds 5 slices, expected at least 6 for"):
        central_slices(5, 6)


def test_orientations_are_those_of_pillow(tmp_path):
    from PIL import ImageOps

    counts = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(counts).save(tmp_path / "x.png", exif=exif)
        with Image.open(tmp_path / "x.png") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(upright(counts[None, ..., None], orientation)[0, ..., 0], expected)
