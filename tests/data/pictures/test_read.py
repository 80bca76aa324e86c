from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.read import ImageFile, read_image


def read_picture(path, size, where="here", cache=None):
    return ImageFile(str(path), Modality("picture", "image", (1, size, size)), where, cache).pixels()


def saved(tmp_path, array, mode=None, name="i.png", **options):
    image = Image.fromarray(np.asarray(array))
    image = image.convert(mode) if mode else image
    image.save(tmp_path / name, **options)
    return tmp_path / name


GRADIENT = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7


def test_eight_bits_are_read_as_they_are(tmp_path):
    image = read_picture(saved(tmp_path, GRADIENT), 6)
    assert (image.dtype, image.shape) == (np.float32, (1, 6, 6))
    np.testing.assert_allclose(image[0], GRADIENT / 255, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L"])
def test_every_mode_becomes_grey(tmp_path, mode):
    image = read_picture(saved(tmp_path, GRADIENT, mode), 6)
    np.testing.assert_allclose(image[0], GRADIENT / 255, atol=1.01 / 255)


def test_transparent_parts_are_black(tmp_path):
    array = np.full((4, 4, 4), 255, np.uint8)
    array[:2, :, 3] = 0
    image = read_picture(saved(tmp_path, array), 4)
    assert image[0].tolist() == [[0.0] * 4] * 2 + [[1.0] * 4] * 2


@pytest.mark.parametrize("most", [65535, 4000, 200])
def test_sixteen_bits_count_by_their_own_end(tmp_path, most):
    array = np.linspace(0, most, 25).astype(np.uint16).reshape(5, 5)
    image = read_picture(saved(tmp_path, array), 5)
    np.testing.assert_allclose(image[0], array / 65535, rtol=1e-6)


def test_a_wide_image_is_padded_not_stretched(tmp_path):
    image = read_picture(saved(tmp_path, np.full((4, 12), 255, np.uint8)), 12)[0]
    assert np.array_equal(image[4:8], np.ones((4, 12)))
    assert np.array_equal(image[:4], np.zeros((4, 12)))
    assert np.array_equal(image[8:], np.zeros((4, 12)))


def test_shrinking_averages(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = read_picture(saved(tmp_path, checks), 8)
    assert np.abs(image - 0.5).max() < 0.02


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.png", b""), ("text.jpg", b"<html>not found</html>"), ("cut.png", None)],
    ids=["empty file", "a web page", "cut off in the middle"],
)
def test_a_file_that_is_no_image_is_refused(tmp_path, name, content):
    noise = np.random.default_rng(0).integers(0, 255, (99, 99), dtype=np.uint8)
    path = tmp_path / name
    path.write_bytes(saved(tmp_path, noise).read_bytes()[:3000] if content is None else content)
    with pytest.raises(DataError, match=rf"^metadata.csv:9, column 'filename': {name} is not an image"):
        read_picture(path, 8, f"metadata.csv:9, column 'filename': {name}")


def test_the_cache_follows_the_file_and_survives_damage(tmp_path):
    cache = tmp_path / "cache"
    path = saved(tmp_path, GRADIENT)
    first = read_picture(path, 6, "here", cache)
    (kept,) = cache.iterdir()
    path_stat = path.stat()

    np.save(kept, np.full((1, 6, 6), 0.5, np.float32))
    assert np.array_equal(read_picture(path, 6, "here", cache), np.full((1, 6, 6), 0.5))  # it is read
    kept.write_bytes(kept.read_bytes()[:50])
    assert np.array_equal(read_picture(path, 6, "here", cache), first)

    saved(tmp_path, 255 - GRADIENT)
    os.utime(path, ns=(path_stat.st_atime_ns, path_stat.st_mtime_ns + 1_000_000))
    np.testing.assert_allclose(read_picture(path, 6, "here", cache)[0], 1 - GRADIENT / 255, atol=1e-6)


def modality(shape=(1, 6, 6), **described):
    return Modality("m", "image", shape, **described)


def array(tmp_path, values, name="i.npy"):
    np.save(tmp_path / name, values)
    return tmp_path / name


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jfif", ""])
def test_a_picture_is_known_by_its_content(tmp_path, suffix):
    """PNG, TIFF and GIF under whatever picture's name."""
    for written in ("PNG", "TIFF", "GIF"):
        path = saved(tmp_path, GRADIENT, name=f"i{suffix}", format=written)
        np.testing.assert_allclose(read_image(path, modality())[0], GRADIENT / 255, atol=1e-7)


def test_a_dicom_file_without_a_suffix(tmp_path):
    from tests.data.pictures.dicom import written

    for name in ("IM0001", "1.2.840.113", "x.DCM", "x.dicom"):
        path = written(tmp_path / name, GRADIENT)
        np.testing.assert_allclose(read_image(path, modality())[0], GRADIENT / 255, atol=1e-7)


@pytest.mark.parametrize("name", ["i.jp2", "i", "i.txt", "i.nii.bz2"])
def test_other_formats_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(Unreadable, match=r"^is not an image that can be read \(cannot identify"):
        read_image(tmp_path / name, modality())
    with pytest.raises(Unreadable, match=r"^is not an image that can be read \(.*No such file"):
        read_image(tmp_path / "other", modality())


def test_pictures_of_other_proportions(tmp_path):
    read = read_image(saved(tmp_path, np.full((4, 4), 255, np.uint8)), modality((1, 4, 8)))
    assert read[0].tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]] * 4


OUTSIDE = {
    "case 05: bytes": (
        np.arange(36, dtype=np.uint8),
        (0, 1),
        r"^holds values from 0 to 35, expected 0 to 1, the default",
    ),
    "floats that are bytes": (
        np.arange(36.0),
        (0, 1),
        r"^holds values from 0 to 35, expected 0 to 1, the default window",
    ),
    "a little above": (np.linspace(0, 1.01, 36), (0, 1), r"^holds values from 0 to 1\.01, expected 0 to 1"),
    "below": (np.linspace(-0.5, 1, 36), (0, 1), r"^holds values from -0\.5 to 1, expected 0 to 1"),
    "all above": (
        np.arange(500, 536),
        (0, 255),
        r"^holds values from 500 to 535, all outside the window \[0, 255\]",
    ),
    "all below": (
        np.arange(-90, -54),
        (0, 255),
        r"^holds values from -90 to -55, all outside the window \[0, 255\]",
    ),
    "nearly all above": (
        np.arange(36) * 1000,
        (0, 255),
        r"^holds values from 0 to 35000, 97% above the window \[0, 255\]",
    ),
}


@pytest.mark.parametrize(("values", "window", "message"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_window_that_nobody_meant_is_refused(tmp_path, values, window, message):
    with pytest.raises(Unreadable, match=message):
        read_image(array(tmp_path, values.reshape(6, 6)), modality(window=window))


INSIDE = {
    "shares": (np.linspace(0, 1, 36), (0, 1)),
    "a mask": (np.arange(36) % 2 == 0, (0, 1)),
    "bone and air beyond a lung window": (np.linspace(-2000, 1500, 36), (-1000, 400)),
    "mostly air": (np.where(np.arange(36) < 34, -1024, 40), (-1000, 400)),
    "no more than nine in ten above": (np.where(np.arange(36) < 32, 900, 40), (-1000, 400)),
}


@pytest.mark.parametrize(("values", "window"), INSIDE.values(), ids=INSIDE.keys())
def test_values_keep_their_unit_and_may_be_clipped_later(tmp_path, values, window):
    read = read_image(array(tmp_path, values.reshape(6, 6)), modality(window=window))
    np.testing.assert_array_equal(read[0], values.reshape(6, 6).astype(np.float32))


def test_a_picture_s_window_is_a_share(tmp_path):
    path = saved(tmp_path, GRADIENT)
    np.testing.assert_array_equal(read_image(path, modality(window=(0.2, 0.8))), read_image(path, modality()))
    with pytest.raises(
        Unreadable, match=r'^counts its full scale as 1, but the window is \[0, 4095\].*"bits"'
    ):
        read_image(path, modality(window=(0, 4095)))
    with pytest.raises(
        Unreadable, match=r'^has no window of its own, which "window": "file" asks for: only DICOM has$'
    ):
        read_image(path, modality(window="file"))


ARRAYS = {
    "objects": (np.array([[None] * 6] * 6), r"^is not an array that can be read"),
    "complex": (np.zeros((6, 6), np.complex64), r"^holds complex64, expected real numbers$"),
    "text": (np.full((6, 6), "a"), r"^holds <U1, expected real numbers$"),
    "dates": (np.zeros((6, 6), "M8[D]"), r"^holds datetime64\[D\], expected real numbers$"),
    "fields": (np.zeros((6, 6), [("a", "f4")]), r"expected real numbers$"),
    "NaN": (np.full((6, 6), np.nan), r"^holds NaN or infinite values, expected finite numbers$"),
    "infinite": (np.full((6, 6), np.inf), r"^holds NaN or infinite values"),
    "beyond float32": (np.full((6, 6), 1e300), r"^holds NaN or infinite values"),
    "shape": (np.zeros((6, 5)), r"^has shape \[6, 5\], expected \[1, 6, 6\]$"),
    "channels last": (np.zeros((6, 6, 1)), r"^has shape \[6, 6, 1\], expected \[1, 6, 6\]$"),
    "no dimensions": (np.float32(0), r"^has shape \[\], expected \[1, 6, 6\]$"),
    "empty": (np.zeros((0, 6, 6)), r"has shape|is not an array"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("values", "message"), ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_that_is_no_image_is_refused(tmp_path, values, message):
    with pytest.raises(Unreadable, match=message):
        read_image(array(tmp_path, values), modality())


@pytest.mark.parametrize("dtype", ["?", "u1", ">i2", "f2", ">f8", "g", "u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_real_type_and_order(tmp_path, dtype, order):
    values = np.asarray(np.arange(36).reshape(1, 6, 6) % 2, dtype, order=order)
    read = read_image(array(tmp_path, values), modality())
    assert (read.dtype, read.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(read, np.arange(36).reshape(1, 6, 6) % 2)


HEADERS = {
    "of terabytes": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1000000, 1000000), }",
    "of the right shape and no numbers": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 6, 6), }",
    "that is a program": b"__import__('os').abort()",
    "that is nothing": b"",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_of_an_array(tmp_path, header):
    header = header.ljust(117) + b"\n"
    (tmp_path / "i.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(Unreadable, match=r"^is not an array that can be read"):
        read_image(tmp_path / "i.npy", modality())


def test_an_archive_is_no_array(tmp_path):
    np.savez(tmp_path / "i.npz", np.zeros((6, 6)))
    (tmp_path / "i.npz").rename(tmp_path / "i.npy")
    with pytest.raises(Unreadable, match=r"^is not an array that can be read \(an archive of several\)"):
        read_image(tmp_path / "i.npy", modality())


@pytest.mark.parametrize("size", [(1, 10_000), (300, 20_000), (1, 60_000), (1, 200_000)])
def test_a_thin_picture_takes_no_square(tmp_path, size):
    """Case 28: 199 bytes took 14 GB. Pillow's own memory is not seen here, but is the picture's."""
    Image.new("1", size, 1).save(tmp_path / "x.png")
    tracemalloc.start()
    image = read_picture(tmp_path / "x.png", 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * size[0] * size[1] + 2**22
    assert image.sum() == pytest.approx(64 * 64 * size[0] / size[1], rel=0.02)


def test_the_cache_tells_apart_all_that_decides_the_pixels(tmp_path):
    cache = tmp_path / "cache"
    path = saved(tmp_path, np.full((6, 6, 3), (9, 99, 200), np.uint8))
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((6, 6), 1000, np.uint16)).save(deep)
    grey = read_image(path, modality(), cache)
    colour = read_image(path, modality((3, 6, 6)), cache)
    assert [*grey[:, 0, 0].tolist(), *colour[:, 0, 0].tolist()] == pytest.approx(
        [84 / 255, 9 / 255, 99 / 255, 200 / 255]
    )
    assert read_image(deep, modality(), cache)[0, 0, 0] == np.float32(1000 / 65535)
    assert read_image(deep, modality(bits=12), cache)[0, 0, 0] == np.float32(1000 / 4095)
    assert read_image(deep, modality((1, 3, 3)), cache).shape == (1, 3, 3)
    assert len(list(cache.iterdir())) == 5


def test_the_cache_follows_every_file_of_a_series(tmp_path):
    from tests.data.pictures.dicom import edit, series

    cache, folder = tmp_path / "cache", series(tmp_path / "s", range(3))
    wide = modality((3, 4, 4), window=(0, 10))
    assert read_image(folder, wide, cache)[:, 0, 0].tolist() == [0, 1, 2]
    edit(folder / "IM0001", RescaleSlope="7", RescaleIntercept="0")
    assert read_image(folder, wide, cache)[:, 0, 0].tolist() == [0, 7, 2]
    assert read_image(folder, modality((3, 4, 4), window=(0, 9)), cache)[:, 0, 0].tolist() == [0, 7, 2]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    "described",
    [
        {"window": "own"},
        {"window": (1, 0)},
        {"window": (0, float("nan"))},
        {"bits": 7},
        {"bits": 33},
        {"bits": 12.0},
    ],
)
def test_a_modality_checks_its_scale(described):
    (name,) = described
    with pytest.raises(ValueError, match=rf"^Modality 'm': {name} is .*, expected"):
        modality(**described)


def test_the_window_of_the_file_is_from_0_to_1():
    assert modality(window="file").low_high == (0, 1)
    assert modality(window=(-5, 5)).low_high == (-5, 5)
