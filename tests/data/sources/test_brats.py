from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError, StoredImage
from robustmdiff.data.sources.brats import SERIES, load_brats, verify
from robustmdiff.refusal import Refusal

pytest.importorskip("nibabel", reason="volumes are NIfTI: pip install 'robustmdiff[clinical]'")
from tests.data.sources.volumes import head, written

REAL = Path(__file__).parents[3] / "../shared/data/brats_deepmedic/volumes"
real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/brats_deepmedic is not here")

OLD = {"t1": "_t1", "t1c": "_t1ce", "t2": "_t2", "flair": "_flair", "seg": "_seg"}
NEW = {"t1": "-t1n", "t1c": "-t1c", "t2": "-t2w", "flair": "-t2f", "seg": "-seg"}
SCALES = {"t1": 1, "t1c": 10, "t2": 100, "flair": 1000}  # a scanner's own, of which nothing is to be seen


def tumour(count, *slices):
    voxels = np.zeros((8, 8, count), np.uint8)
    voxels[3, 3, list(slices)] = 4
    return voxels


def examination(root, name, scheme, series=SERIES, seg=(2,), count=4, suffix=".nii.gz"):
    for series_name in series:
        path = root / name / f"{name}{scheme[series_name]}{suffix}"
        written(path, head(count, SCALES[series_name]))
    if seg is not None:
        written(root / name / f"{name}{scheme['seg']}{suffix}", tumour(count, *seg))
    return root / name


@pytest.mark.parametrize(
    ("name", "scheme", "suffix", "person"),
    [
        ("BraTS20_Training_001", OLD, ".nii", "BraTS20_Training_001"),
        ("BraTS2021_00000", OLD, ".nii.gz", "BraTS2021_00000"),
        ("BraTS-GLI-00000-001", NEW, ".nii.gz", "BraTS-GLI-00000"),  # the second examination of a person
    ],
)
def test_both_schemes_of_names_give_paired_slices_in_shares_of_their_volume(
    tmp_path, name, scheme, suffix, person
):
    examination(tmp_path / "HGG", name, scheme, suffix=suffix)
    patients, task = load_brats(tmp_path, image_size=8, slices=2)
    assert task.modality_names == SERIES
    assert [patient.id for patient in patients] == [f"{name}/1", f"{name}/2"]
    assert {patient.person for patient in patients} == {person}
    # Of four slices the second and the fourth are in the middle of either half.
    for patient, share in zip(patients, (2 / 4, 1.0), strict=True):
        for series in SERIES:
            image = patient.modalities[series].pixels()
            assert (image.dtype, image.shape) == (np.float32, (1, 8, 8))
            np.testing.assert_allclose(image[0, 2:6, 2:6], share, rtol=1e-6)
            assert image.sum() == pytest.approx(16 * share)
    assert len(Collator(task)(patients)) == 2


def test_the_segmentation_is_the_label_and_no_observation(tmp_path):
    examination(tmp_path, "BraTS2021_00000", OLD, seg=(1,))
    examination(tmp_path, "BraTS2021_00001", OLD, seg=None)  # as those for validation
    patients, task = load_brats(tmp_path, image_size=8, slices=2)
    labels = [patient.labels for patient in patients]
    assert labels == [{"tumour": True}, {"no tumour": True}, {}, {}]
    assert task.classes == ("tumour", "no tumour")
    assert all(set(patient.modalities) == set(SERIES) for patient in patients)


def test_a_series_that_is_not_there_is_absent(tmp_path):
    examination(tmp_path, "BraTS-GLI-00003-000", NEW, series=("t1", "flair"))
    patients, _ = load_brats(tmp_path, image_size=8, slices=1)
    assert [patients[0].has(name) for name in SERIES] == [True, False, False, True]


def test_volumes_are_decoded_when_asked_for_and_kept(tmp_path, monkeypatch):
    from robustmdiff.data.sources import mri

    folder = examination(tmp_path / "data", "BraTS2021_00000", OLD)
    patients, _ = load_brats(tmp_path / "data", image_size=8, slices=4, cache=tmp_path / "kept")
    read = []
    decode = mri.read_nifti
    monkeypatch.setattr(mri, "read_nifti", lambda path, modality: read.append(path) or decode(path, modality))
    images = [patient.modalities["t2"] for patient in patients]
    assert all(isinstance(image, StoredImage) for image in images)
    assert read == []
    np.testing.assert_allclose(
        [image.pixels().max() for image in images], [1 / 4, 2 / 4, 3 / 4, 1], rtol=1e-6
    )
    assert read == [folder / "BraTS2021_00000_t2.nii.gz"]


def test_a_volume_less_its_mean_has_a_black_background(tmp_path):
    voxels = head(2).astype(np.float32) - 5
    written(tmp_path / "brats_2013_pat1" / "Flair_subtrMeanDivStd.nii.gz", voxels)
    written(tmp_path / "brats_2013_pat1" / "brainmask.nii.gz", (voxels > -5).astype(np.uint8))
    (patient,), _ = load_brats(tmp_path, image_size=8, slices=1)
    image = patient.modalities["flair"].pixels()
    np.testing.assert_array_equal(np.unique(image), [0, 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_the_type_of_the_voxels_changes_nothing(tmp_path, dtype):
    """12-bit counts in 16 bits are the usual case; a volume of another type beside it is no other case."""
    examination(tmp_path, "BraTS2021_00000", OLD, series=("t1",))
    written(tmp_path / "BraTS2021_00000" / "BraTS2021_00000_t2.nii.gz", head(4, 60, dtype))
    patients, _ = load_brats(tmp_path, image_size=8, slices=2)
    for patient in patients:
        t1, t2 = (patient.modalities[name].pixels() for name in ("t1", "t2"))
        np.testing.assert_allclose(t1, t2, rtol=1e-6)


def test_pairs_that_do_not_match_are_refused(tmp_path):
    folder = examination(tmp_path, "BraTS2021_00000", OLD)
    written(folder / "BraTS2021_00000_t2.nii.gz", head(5))
    with pytest.raises(
        DataError, match=r"_t2\.nii\.gz: has \[8, 8, 5\] voxels, expected \[8, 8, 4\] as t1 of"
    ):
        load_brats(tmp_path)
    written(folder / "BraTS2021_00000_t2.nii.gz", head(4), shift=3.0)
    with pytest.raises(DataError, match=r"_t2\.nii\.gz: lies elsewhere than t1 of this head"):
        load_brats(tmp_path)
    written(folder / "BraTS2021_00000_t2.nii.gz", head(4))
    written(folder / "BraTS2021_00000_seg.nii.gz", tumour(3, 1))
    with pytest.raises(DataError, match=r"_seg\.nii\.gz: has \[8, 8, 3\] voxels, expected \[8, 8, 4\] as t1"):
        load_brats(tmp_path)


def test_what_cannot_be_read_is_named_and_can_be_skipped(tmp_path):
    examination(tmp_path, "BraTS2021_00000", OLD)
    folder = examination(tmp_path, "BraTS2021_00001", OLD)
    # As one head of 2020 has it.
    (folder / "BraTS2021_00001_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    with pytest.raises(DataError, match=r"BraTS2021_00001/W39_1998.09.19_Segm.nii.gz: is no series of BraTS"):
        load_brats(tmp_path, image_size=8, slices=2)
    bad = BadRows(skip=True)
    patients, _ = load_brats(tmp_path, image_size=8, slices=2, bad=bad)
    assert {patient.group for patient in patients} == {"BraTS2021_00000"}
    assert len(bad.problems) == 1
    assert verify(tmp_path)["heads"] == 1


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.full((8, 8, 4), 9, np.int16), "holds nothing but 9 in its slices, expected an image"),
        (np.full((8, 8, 4), np.nan, np.float32), "holds NaN or infinite values"),
    ],
)
def test_an_image_of_nothing_is_refused(tmp_path, voxels, message):
    written(tmp_path / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz", voxels)
    patients, _ = load_brats(tmp_path, slices=2)
    with pytest.raises(DataError, match=rf"BraTS2021_00000: BraTS2021_00000_t1\.nii\.gz {message}"):
        patients[0].modalities["t1"].pixels()


def test_a_segmentation_of_other_codes_two_files_of_a_series_and_nothing_at_all(tmp_path):
    with pytest.raises(DataError, match="has no volume of BraTS"):
        load_brats(tmp_path)
    folder = examination(tmp_path, "BraTS2021_00000", OLD, seg=None)
    written(folder / "BraTS2021_00000_seg.nii.gz", head(4, 3, np.uint8))
    with pytest.raises(DataError, match=r"_seg\.nii\.gz: holds 12, expected the codes 0 to 4"):
        load_brats(tmp_path, slices=2)
    written(folder / "BraTS2021_00000_t1.nii", head(4))
    with pytest.raises(DataError, match=r"has BraTS2021_00000_t1\.nii and .*_t1\.nii\.gz, expected one t1"):
        load_brats(tmp_path)
    with pytest.raises(Refusal, match="slices is 0, expected 1 or more"):
        load_brats(tmp_path, slices=0)


def test_what_is_there_is_counted(tmp_path):
    examination(tmp_path, "BraTS2021_00000", OLD)
    examination(tmp_path, "BraTS2021_00001", OLD, series=("t1", "flair"), seg=None)
    assert verify(tmp_path) == {
        **{"heads": 2, "heads with every series": 1, "volumes t1": 2, "volumes t1c": 1, "volumes t2": 1},
        **{"volumes flair": 2, "volumes seg": 1},
    }


@real
def test_the_real_volumes(tmp_path):
    patients, task = load_brats(REAL, slices=8, cache=tmp_path)
    assert len(patients) == 16
    assert [patients[0].has(name) for name in SERIES] == [False, True, False, True]
    batch = Collator(task)(patients)
    for name in ("t1c", "flair"):
        pixels = batch.inputs[name].pixels
        assert pixels.min() == 0
        assert 0.9 < pixels.max() <= 1  # means of the file's own pixels
        assert (pixels[:, 0, 0, 0] == 0).all()
    assert {name for patient in patients for name in patient.labels} == {"tumour", "no tumour"}
