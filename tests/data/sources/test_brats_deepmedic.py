from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.brats_deepmedic import load_brats_deepmedic

REAL = Path(__file__).parents[3] / "../shared/data/brats_deepmedic"
real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/brats_deepmedic is not here")


def packed(root, **other):
    grey = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    label = np.zeros((3, 8, 8), np.uint8)
    label[1, 2, 2] = 4
    arrays = {
        **{"flair": 100 * grey, "t1c": 51 * grey, "label": label},
        **{"patient": np.array([0, 0, 1]), "z": np.array([12, 15, 12])},
        "patient_names": np.array(["head a", "head b"]),
    }
    arrays = {name: value for name, value in (arrays | other).items() if value is not None}
    np.savez(root / "slices96.npz", **arrays)
    return root


def test_slices_are_pairs_of_a_head(tmp_path):
    patients, task = load_brats_deepmedic(packed(tmp_path), image_size=4)
    assert [(patient.id, patient.group) for patient in patients] == [
        *(("head a/12", "head a"), ("head a/15", "head a"), ("head b/12", "head b")),
    ]
    assert [list(patient.labels) for patient in patients] == [["no tumour"], ["tumour"], ["no tumour"]]
    for number, patient in enumerate(patients):
        for name, step in (("flair", 100), ("t1c", 51)):
            expected = np.full((1, 4, 4), step * number / 255)
            np.testing.assert_allclose(patient.modalities[name], expected, rtol=1e-6)
    assert len(Collator(task)(patients)) == 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"t1c": None}, r"is no archive of t1c, flair, label, .*t1c"),
        (
            {"t1c": np.zeros((2, 8, 8), np.uint8)},
            r"t1c is uint8 \[2, 8, 8\], expected uint8 \[3, 8, 8\] as fl",
        ),
        (
            {"t1c": np.zeros((3, 9, 8), np.uint8)},
            r"t1c is uint8 \[3, 9, 8\], expected uint8 \[3, 8, 8\] as fl",
        ),
        ({"t1c": np.zeros((3, 8, 8), np.uint16)}, r"t1c is uint16 \[3, 8, 8\], expected uint8"),
        ({"z": np.arange(2)}, r"z is int64 \[2\], expected 3 whole numbers, one for each slice"),
        ({"patient": np.array([0, 1, 2])}, "patient has 2, expected 0 to 1"),
    ],
)
def test_what_are_no_pairs_is_refused(tmp_path, other, message):
    with pytest.raises(DataError, match=message):
        load_brats_deepmedic(packed(tmp_path, **other))


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"slices96\.npz: is no archive"):
        load_brats_deepmedic(tmp_path)


@real
def test_the_real_pairs():
    patients, _ = load_brats_deepmedic(REAL)
    assert len(patients) == 246
    assert len({patient.person for patient in patients}) == 6
    flair = np.concatenate([patient.modalities["flair"] for patient in patients])
    t1c = np.concatenate([patient.modalities["t1c"] for patient in patients])
    assert np.corrcoef(flair.ravel(), t1c.ravel())[0, 1] > 0.8  # of one head; shuffled it is far less
    rolled = np.roll(t1c, 60, axis=0)
    assert np.corrcoef(flair.ravel(), rolled.ravel())[0, 1] < 0.8
    label = np.load(REAL / "slices96.npz")["label"].reshape(246, -1).max(axis=1)
    assert ["tumour" in patient.labels for patient in patients] == (label > 0).tolist()
