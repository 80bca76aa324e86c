"""NIfTI: the volumes that nibabel ships, by values worked out from their bytes, and volumes written here."""

from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.testing import data_path

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.read import read_image
from tests.data.pictures.dicom import AXIAL, written

RNG = np.random.default_rng(3)
WIDE = (-1e6, 1e6)
REAL = Path(__file__).parents[3] / "../shared/data/brats_deepmedic/volumes"


def decoded(path, shape, window=WIDE):
    return read_image(Path(path), Modality("m", "image", shape, window=window))


def raw(name, dtype, shape):
    """The voxels of an uncompressed or compressed file, from the bytes."""
    content = (Path(data_path) / name).read_bytes()
    content = gzip.decompress(content) if name.endswith(".gz") else content
    offset = int(struct.unpack(f"{dtype[0]}f", content[108:112])[0])
    many = int(np.prod(shape))
    return np.frombuffer(content, dtype, many, offset).reshape(shape, order="F")


def saved(path, voxels, axes="RAS", zooms=(1, 1, 1), **header):
    """voxels [x, y, z] along `axes`."""
    affine = np.zeros((4, 4))
    for n, code in enumerate(axes):
        row = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[code]
        affine[row, n] = zooms[n] if code in "RAS" else -zooms[n]
    affine[3, 3] = 1
    image = nibabel.Nifti1Image(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def looked_at(ras, z):
    """Rows from anterior to posterior, columns from right to left."""
    rights, anteriors, _ = ras.shape
    return np.array([[ras[x, y, z] for x in reversed(range(rights))] for y in reversed(range(anteriors))])


def test_a_volume_of_nibabel():
    voxels = raw("anatomical.nii", ">i2", (33, 41, 25))  # along LAS: x descends
    expected = looked_at(voxels[::-1], 12)
    read = decoded(Path(data_path) / "anatomical.nii", (1, 41, 33))
    np.testing.assert_array_equal(read[0], expected)
    voxels = raw("standard.nii.gz", "<u1", (4, 5, 7))  # along RAS, of 1 x 3 x 2 mm
    read = decoded(Path(data_path) / "standard.nii.gz", (2, 15, 15), window=(0, 1000))
    assert not read[:, :, :5].any()  # 4 mm in the middle of 15 mm
    assert not read[:, :, 9:].any()
    np.testing.assert_array_equal(read[:, 1::3, 5:9], [looked_at(voxels, 1), looked_at(voxels, 5)])


def test_four_dimensions_are_refused_by_name():
    with pytest.raises(
        Unreadable, match=r"^is 4-D \[128, 96, 24, 2\], expected one volume: take one out before$"
    ):
        decoded(Path(data_path) / "example4d.nii.gz", (1, 8, 8))
    with pytest.raises(Unreadable, match=r"^is 4-D \[32, 20, 12, 2\]"):
        decoded(Path(data_path) / "example_nifti2.nii.gz", (1, 8, 8))


@pytest.mark.parametrize(
    "axes",
    [
        "".join(signs)
        for order in itertools.permutations(("RL", "AP", "SI"))
        for signs in itertools.product(*order)
    ],
)
def test_every_orientation_gives_the_same_picture(tmp_path, axes):
    ras = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    voxels = ras
    for n, code in enumerate("RAS"):  # from RAS to `axes`: flip, then permute
        if {"R": "L", "A": "P", "S": "I"}[code] in axes:
            voxels = np.flip(voxels, n)
    voxels = voxels.transpose([{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[code] for code in axes])
    path = saved(tmp_path / "x.nii.gz", voxels, axes)
    read = decoded(path, (5, 4, 4))
    for z in range(5):
        np.testing.assert_array_equal(read[z, :, :3], looked_at(ras, z))
    np.testing.assert_array_equal(decoded(path, (1, 4, 4))[0, :, :3], looked_at(ras, 2))


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
def test_slope_and_intercept_are_applied(tmp_path, dtype):
    stored = RNG.integers(0, 100, (4, 4, 3)).astype(dtype)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_data_dtype(dtype)
    path = tmp_path / "x.nii"
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack(f"{image.header.endianness}2f", 0.5, -10.0)
    path.write_bytes(content)
    np.testing.assert_array_equal(decoded(path, (1, 4, 4))[0], looked_at(stored * 0.5 - 10.0, 1))


def test_the_same_scan_as_dicom_and_as_nifti(tmp_path):
    ras = RNG.integers(-1000, 1000, (6, 8, 4)).astype(np.int16)
    path = saved(tmp_path / "x.nii.gz", ras)
    folder = tmp_path / "series"
    folder.mkdir()
    for z in range(4):  # DICOM's x and y run to the left and to the back, from the first pixel's centre
        written(
            *(folder / f"{z}.dcm", looked_at(ras, z)),
            **{"ImagePositionPatient": ["-5", "-7", str(z)], "ImageOrientationPatient": AXIAL},
        )
    np.testing.assert_array_equal(decoded(path, (2, 8, 8)), decoded(folder, (2, 8, 8)))


def test_pixels_that_are_not_square(tmp_path):
    voxels = np.ones((8, 4, 1), np.float32)
    read = decoded(saved(tmp_path / "x.nii", voxels, zooms=(1, 2, 3)), (1, 8, 8), window=(0, 2))
    np.testing.assert_array_equal(read, np.ones((1, 8, 8), np.float32))
    read = decoded(saved(tmp_path / "x.nii", voxels, "ARS", zooms=(1, 2, 3)), (1, 8, 8), window=(0, 2))
    np.testing.assert_array_equal(read, np.ones((1, 8, 8), np.float32))
    read = decoded(saved(tmp_path / "x.nii", voxels), (1, 8, 8), window=(-7, 2))
    assert read[0, :, 0].tolist() == [-7, -7, 1, 1, 1, 1, -7, -7]


REFUSED = {
    "RGB": (
        np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
        {},
        r"^holds RGB voxels, expected one number per voxel$",
    ),
    "complex": (np.zeros((2, 2, 2), np.complex64), {}, r"^holds complex64 voxels, expected real numbers$"),
    "NaN": (np.full((2, 2, 2), np.nan), {}, r"^holds NaN or infinite values, expected finite numbers$"),
    "no orientation": (
        np.zeros((2, 2, 2)),
        {"sform_code": 0, "qform_code": 0},
        r"^does not say how it lies \(sform_code and qform_code are 0\), expected one of them$",
    ),
    "too few slices": (np.zeros((2, 2, 2)), {}, r"^holds 2 slices, expected at least 3 for"),
}


@pytest.mark.parametrize(("voxels", "header", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_the_rest_is_refused(tmp_path, voxels, header, message):
    path = saved(tmp_path / "x.nii", voxels)
    content = bytearray(path.read_bytes())
    if header:
        content[252:256] = struct.pack("<2h", header["qform_code"], header["sform_code"])
        path.write_bytes(content)
    with pytest.raises(Unreadable, match=message):
        decoded(path, (3 if "slices" in message else 1, 2, 2))


def test_a_volume_of_one_time_and_one_of_one_slice(tmp_path):
    voxels = RNG.normal(size=(3, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        decoded(saved(tmp_path / "x.nii", voxels[..., None]), (1, 3, 3))[0], looked_at(voxels, 1)
    )
    np.testing.assert_array_equal(
        decoded(saved(tmp_path / "x.nii", voxels[..., 0]), (1, 3, 3))[0], looked_at(voxels, 0)
    )


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_header_of_gigabytes_is_refused_before_anything_is_allocated(tmp_path, suffix):
    path = saved(tmp_path / "x.nii", np.zeros((2, 2, 2), np.int16))
    content = bytearray(path.read_bytes())
    content[42:48] = struct.pack("<3h", 32000, 32000, 32000)
    path = tmp_path / f"y.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == "nii.gz" else content)
    with pytest.raises(Unreadable, match=r"^is 32000 x 32000 pixels, expected at most"):
        decoded(path, (1, 8, 8))
    content[42:48] = struct.pack("<3h", 4000, 4000, 8)
    path.write_bytes(gzip.compress(content) if suffix == "nii.gz" else content)
    with pytest.raises(Unreadable, match=r"is not a NIfTI volume that can be read"):
        decoded(path, (1, 8, 8))


@pytest.mark.parametrize("content", [b"", b"no volume", bytes(400)])
def test_a_damaged_file_is_refused(tmp_path, content):
    for name in ("x.nii", "x.nii.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Unreadable, match=r"is not a NIfTI volume that can be read"):
            decoded(tmp_path / name, (1, 8, 8))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real copy ../shared/data/brats_deepmedic is not here")
def test_a_real_scan_of_the_brain():
    path = sorted(REAL.glob("*/Flair*.nii.gz"))[0]
    ras = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    read = decoded(path, (4, 240, 240))
    for channel, z in enumerate((19, 58, 96, 135)):
        np.testing.assert_array_equal(read[channel], ras[::-1, ::-1, z].T.astype(np.float32))
