"""What a model made, written and read back: the same picture, and a file that says that it is synthetic."""

import gzip
import io

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.read import read_image
from robustmdiff.data.pictures.write import COUNTS, to_dicom, to_nifti, to_png

WINDOWS = [(0.0, 1.0), (-1000.0, 300.0), (0.0, 0.9)]


def picture(shape, window, seed=0):
    """Values over the whole window, none of them symmetric."""
    low, high = window
    return (low + (high - low) * np.random.default_rng(seed).random(shape)).astype(np.float32)


@pytest.mark.parametrize("window", WINDOWS)
def test_dicom_leads_back_to_the_unit(tmp_path, window):
    modality = Modality("ct", "image", shape=(3, 20, 12), window=window)
    image = picture((3, 20, 12), window)
    for number, content in enumerate(to_dicom(image, modality, "by a test")):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    for channel in range(3):
        alone = Modality("slice", "image", shape=(1, 20, 12), window=window)
        read = read_image(tmp_path / f"{channel}.dcm", alone)
        # Half a count, and what a DS string of nine digits and float32 lose.
        step = (window[1] - window[0]) / COUNTS
        np.testing.assert_allclose(read[0], image[channel], atol=0.51 * step + 1e-6 * max(map(abs, window)))


@pytest.mark.parametrize("window", WINDOWS)
def test_nifti_keeps_every_value(tmp_path, window):
    modality = Modality("mri", "image", shape=(2, 20, 12), window=window)
    image = picture((2, 20, 12), window)
    (tmp_path / "x.nii.gz").write_bytes(to_nifti(image, modality, "by a test"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.nii.gz", modality), image)


def test_png_is_the_window_and_its_channels_side_by_side(tmp_path):
    modality = Modality("ct", "image", shape=(2, 6, 4), window=(-1000.0, 300.0))
    image = np.full((2, 6, 4), -1000, np.float32)
    image[1] = 300
    image[0, 0, 1] = 5000  # outside
    (tmp_path / "x.png").write_bytes(to_png(image, modality, {}))
    held = np.asarray(Image.open(tmp_path / "x.png"))
    assert held.shape == (6, 8)
    assert (held[:, 4:] == COUNTS).all()
    assert held[0, 1] == COUNTS
    assert held[0, 0] == 0
    share = Modality("share", "image", shape=(1, 6, 8))
    assert read_image(tmp_path / "x.png", share).max() == 1.0


def test_every_file_says_that_it_is_synthetic_and_of_nobody():
    modality = Modality("xray", "image", shape=(1, 8, 8))
    image = picture((1, 8, 8), (0, 1))
    says = 'from text "cardiomegaly", seed 3'
    dataset = pydicom.dcmread(io.BytesIO(to_dicom(image, modality, says)[0]))
    assert dataset.SyntheticData == "YES"
    assert dataset.ConversionType == "SYN"
    assert dataset.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert dataset.PatientName == "synthetic"
    assert says in dataset.DerivationDescription
    held = Image.open(io.BytesIO(to_png(image, modality, {"Comment": says}))).text
    assert held["Title"] == "synthetic"
    assert held["Comment"] == says
    header = nibabel.Nifti1Image.from_bytes(gzip.decompress(to_nifti(image, modality, says))).header
    assert header["descrip"].item().startswith(b"synthetic: from text")


def test_the_channels_of_an_image_are_one_series_in_their_order():
    modality = Modality("mri", "image", shape=(2, 8, 8), channels=("T1w", "T2w"))
    first, second = (
        pydicom.dcmread(io.BytesIO(content)) for content in to_dicom(picture((2, 8, 8), (0, 1)), modality, "")
    )
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (first.InstanceNumber, first.ImageComments) == (1, "T1w")
    assert (second.InstanceNumber, second.ImageComments) == (2, "T2w")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.text(max_size=2000))
def test_any_shape_and_any_words(C, H, W, words):
    modality = Modality("x", "image", shape=(C, H, W))
    image = picture((C, H, W), (0, 1))
    text = "".join(c for c in words if c.isprintable())
    assert len(to_dicom(image, modality, text)) == C
    assert np.asarray(Image.open(io.BytesIO(to_png(image, modality, {"Comment": text})))).shape == (H, C * W)
    volume = nibabel.Nifti1Image.from_bytes(gzip.decompress(to_nifti(image, modality, text)))
    assert volume.shape == (W, H, C)
