from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures import read_picture


def saved(tmp_path, array, mode=None, name="i.png", **options):
    image = Image.fromarray(np.asarray(array))
    image = image.convert(mode) if mode else image
    image.save(tmp_path / name, **options)
    return tmp_path / name


GRADIENT = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7


def test_eight_bits_are_read_as_they_are(tmp_path):
    image = read_picture(saved(tmp_path, GRADIENT), 6, "here")
    assert (image.dtype, image.shape) == (torch.float32, (1, 6, 6))
    np.testing.assert_allclose(image[0], GRADIENT / 255, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L"])
def test_every_mode_becomes_grey(tmp_path, mode):
    image = read_picture(saved(tmp_path, GRADIENT, mode), 6, "here")
    np.testing.assert_allclose(image[0], GRADIENT / 255, atol=1.01 / 255)


def test_transparent_parts_are_black(tmp_path):
    array = np.full((4, 4, 4), 255, np.uint8)
    array[:2, :, 3] = 0
    image = read_picture(saved(tmp_path, array), 4, "here")
    assert image[0].tolist() == [[0.0] * 4] * 2 + [[1.0] * 4] * 2


@pytest.mark.parametrize(("most", "end"), [(65535, 65535), (4000, 4095), (200, 255)])
def test_sixteen_bits_count_by_the_bits_they_use(tmp_path, most, end):
    array = np.linspace(0, most, 25).astype(np.uint16).reshape(5, 5)
    image = read_picture(saved(tmp_path, array), 5, "here")
    np.testing.assert_allclose(image[0], array / end, rtol=1e-6)


def test_a_wide_image_is_padded_not_stretched(tmp_path):
    image = read_picture(saved(tmp_path, np.full((4, 12), 255, np.uint8)), 12, "here")[0]
    assert torch.equal(image[4:8], torch.ones(4, 12))
    assert torch.equal(image[:4], torch.zeros(4, 12))
    assert torch.equal(image[8:], torch.zeros(4, 12))


def test_shrinking_averages(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = read_picture(saved(tmp_path, checks), 8, "here")
    assert (image - 0.5).abs().max() < 0.02


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
        read_picture(path, 8, "metadata.csv:9, column 'filename'")


def test_the_cache_follows_the_file_and_survives_damage(tmp_path):
    cache = tmp_path / "cache"
    path = saved(tmp_path, GRADIENT)
    first = read_picture(path, 6, "here", cache)
    (kept,) = cache.iterdir()
    path_stat = path.stat()

    np.save(kept, np.full((1, 6, 6), 0.5, np.float32))
    assert torch.equal(read_picture(path, 6, "here", cache), torch.full((1, 6, 6), 0.5))  # it is read
    kept.write_bytes(kept.read_bytes()[:50])
    assert torch.equal(read_picture(path, 6, "here", cache), first)

    saved(tmp_path, 255 - GRADIENT)
    os.utime(path, ns=(path_stat.st_atime_ns, path_stat.st_mtime_ns + 1_000_000))
    np.testing.assert_allclose(read_picture(path, 6, "here", cache)[0], 1 - GRADIENT / 255, atol=1e-6)
