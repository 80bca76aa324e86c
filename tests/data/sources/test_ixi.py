from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.ixi import SERIES, load_ixi, verify
from robustmdiff.refusal import Refusal

pytest.importorskip("nibabel", reason="volumes are NIfTI: pip install 'robustmdiff[clinical]'")
from tests.data.sources.volumes import head, written

PEOPLE = {
    "IXI002-Guys-0828": SERIES,
    "IXI012-HH-1211": ("T1", "T2", "PD"),
    "IXI035-IOP-0873": ("T1",),
}


def collection(root):
    for person, series in PEOPLE.items():
        for name in series:
            count = {"T1": 8, "MRA": 6}.get(name, 4)
            written(root / f"IXI-{name}" / f"{person}-{name}.nii.gz", head(count, 7))
    return root


def test_series_are_paired_by_person(tmp_path):
    patients, task = load_ixi(collection(tmp_path), image_size=8, slices=2)
    assert [patient.id for patient in patients] == list(PEOPLE)
    for patient, series in zip(patients, PEOPLE.values(), strict=True):
        assert tuple(name for name in SERIES if patient.has(name)) == series
    assert [patient.person for patient in patients] == ["IXI002", "IXI012", "IXI035"]
    assert [patient.site for patient in patients] == ["Guys", "HH", "IOP"]
    assert [list(patient.labels) for patient in patients] == [[name] for name in task.classes]
    t1, t2 = (patients[0].modalities[name].pixels() for name in ("T1", "T2"))
    np.testing.assert_allclose(t1[:, 4, 4], [3 / 7, 1], rtol=1e-6)  # the third and the seventh of eight
    np.testing.assert_allclose(t2[:, 4, 4], [2 / 4, 1], rtol=1e-6)  # the second and the fourth of four
    assert len(Collator(task)(patients)) == 3


def test_t2_and_pd_are_pairs_or_refused(tmp_path):
    written(collection(tmp_path) / "IXI-PD" / "IXI012-HH-1211-PD.nii.gz", head(5))
    with pytest.raises(
        DataError, match=r"IXI012-HH-1211-PD\.nii\.gz: has \[8, 8, 5\] voxels, expected .* as T2"
    ):
        load_ixi(tmp_path)
    bad = BadRows(skip=True)
    patients, _ = load_ixi(tmp_path, bad=bad)
    assert [patient.id for patient in patients] == ["IXI002-Guys-0828", "IXI035-IOP-0873"]
    assert len(bad.problems) == 1


@pytest.mark.parametrize("name", ["IXI002-Guys-0828-T2", "IXI002-Mars-0828-T1", "002-T1"])
def test_a_file_of_another_name_or_in_the_wrong_folder_is_refused(tmp_path, name):
    written(collection(tmp_path) / "IXI-T1" / f"{name}.nii.gz", head(4))
    with pytest.raises(
        DataError, match=rf"IXI-T1/{name}\.nii\.gz: expected a name such as .*-0828-T1\.nii\.gz"
    ):
        load_ixi(tmp_path)


def test_two_files_of_a_series_nothing_and_an_option_that_cannot_be(tmp_path):
    with pytest.raises(DataError, match="has no volume of IXI"):
        load_ixi(tmp_path)
    written(collection(tmp_path) / "IXI-T1" / "IXI002-Guys-0828-T1.nii", head(4))
    with pytest.raises(
        DataError, match=r"IXI002-Guys-0828-T1\.nii\.gz: there is IXI002-Guys-0828-T1\.nii, exp"
    ):
        load_ixi(tmp_path)
    with pytest.raises(Refusal, match="slices is 0, expected 1 or more"):
        load_ixi(tmp_path, slices=0)


def test_what_is_there_is_counted(tmp_path):
    assert verify(collection(tmp_path)) == {
        **{"people": 3, "people with every series": 1},
        **{"volumes T1": 3, "volumes T2": 2, "volumes PD": 2, "volumes MRA": 1},
    }
