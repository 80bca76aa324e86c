from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient, StoredImage
from robustmdiff.data.series import split_channels
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.refusal import Refusal


class Stored:
    """A stored image that counts how often it is read."""

    def __init__(self, pixels):
        self.array, self.reads = pixels, 0

    def pixels(self):
        self.reads += 1
        return self.array


def task_of(channels=("T1w", "T2w", "PDw"), count=3, cost=6.0):
    mri = Modality("mri", "image", (count, 4, 5), window=(0.0, 0.9), channels=channels, cost=cost)
    return Task((Modality("before", "text"), mri, Modality("after", "text")), ("a", "b"), (0.5, 0.5))


def test_every_channel_of_the_cohort_is_a_modality_in_the_place_of_the_whole(tmp_path):
    cohort = make_cohort(
        CohortConfig(patients=3, image_size=16, missingness="mcar", rate=0.4), cache=tmp_path
    )
    task, patients = split_channels(cohort.task, cohort.patients, "mri")
    task, patients = split_channels(task, patients, "ct")
    assert task.modality_names == (
        *("xray", "ct_10_cm", "ct_4_cm", "ct_-1_cm", "ct_-6_cm", "mri_T1w", "mri_T2w", "mri_PDw"),
        *("text", "structured", "genomic"),
    )
    for name, whole in (("ct_-6_cm", "ct"), ("mri_T2w", "mri")):
        assert task.modality(name).window == cohort.task.modality(whole).window
        assert task.modality(name).shape == (1, 16, 16)
    assert task.modality("mri_T1w").channels == ("T1w",)
    assert sum(m.cost for m in task.modalities) == pytest.approx(sum(m.cost for m in cohort.task.modalities))
    assert {patient.has("mri") for patient in cohort.patients} == {True, False}  # both are tried
    for patient, split in zip(cohort.patients, patients, strict=True):
        assert "mri" not in split.modalities
        for channel, name in enumerate(("mri_T1w", "mri_T2w", "mri_PDw")):
            assert split.has(name) == patient.has("mri")
            if patient.has("mri"):
                np.testing.assert_array_equal(
                    split.modalities[name], patient.modalities["mri"][channel][None]
                )
        assert (split.id, split.labels, split.site) == (patient.id, patient.labels, patient.site)
    tokenizer = train_tokenizer([patient.modalities["text"] or "" for patient in patients])
    Collator(task, tokenizer)(list(patients))  # which refuses what the task does not declare


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8), min_size=2, max_size=5))
def test_whatever_the_channels_are_called_the_parts_have_names_that_differ(called):
    try:
        task = task_of(tuple(called), len(called))
    except ValueError:
        return  # no names of channels
    names = split_channels(task, [], "mri")[0].modality_names[1:-1]
    assert len({name.casefold() for name in names}) == len(called)
    assert not any(set(name) & set(" ./\\:+=,;<>\"|?*'$&`") for name in names)


@pytest.mark.parametrize("channels", [(), ("+4 cm", "4 cm"), ("T1", "t1")])
def test_channels_without_names_that_differ_are_numbered(channels):
    task, _ = split_channels(task_of(channels, 2), [], "mri")
    assert task.modality_names == ("before", "mri_1", "mri_2", "after")
    assert [m.channels for m in task.modalities[1:3]] == [channels[:1], channels[1:]]


def test_a_stored_image_is_read_when_a_part_is_asked_for_and_not_before():
    image = Stored(np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    _, patients = split_channels(
        task_of(), [Patient("p", {"mri": image}), Patient("q", {"mri": None})], "mri"
    )
    first, second = patients[:2]
    assert image.reads == 0
    assert second.modalities == {"mri_T1w": None, "mri_T2w": None, "mri_PDw": None}
    part = first.modalities["mri_PDw"]
    assert isinstance(part, StoredImage)
    np.testing.assert_array_equal(part.pixels(), image.array[2:])
    assert image.reads == 1


def test_patients_are_mapped_one_by_one():
    class Watched(list):
        asked = ()

        def __getitem__(self, i):
            self.asked = (*self.asked, i)
            return super().__getitem__(i)

    watched = Watched(Patient(str(i), {}) for i in range(5))
    _, patients = split_channels(task_of(), watched, "mri")
    assert (len(patients), patients[-1].id, [p.id for p in patients[1:3]]) == (5, "4", ["1", "2"])
    assert watched.asked == (-1, slice(1, 3))
    with pytest.raises(IndexError):
        patients[5]


@pytest.mark.parametrize("stored", [False, True])
def test_an_image_of_another_number_of_channels_is_refused_and_none_lost(stored):
    pixels = np.zeros((4, 4, 5), np.float32)
    _, patients = split_channels(
        task_of(), [Patient("p", {"mri": Stored(pixels) if stored else pixels})], "mri"
    )
    with pytest.raises(DataError, match=r"patient 'p', modality 'mri': is \[4, 4, 5\], expected 3 channels"):
        patients[0].modalities["mri_T1w"].pixels()


def test_only_an_image_of_several_channels_can_be_split():
    task = task_of((), 1)
    with pytest.raises(Refusal, match="name is 'ct', expected one of before, mri, after"):
        split_channels(task, [], "ct")
    with pytest.raises(Refusal, match="name is 'before', which is of kind 'text', expected an image of"):
        split_channels(task, [], "before")
    with pytest.raises(Refusal, match="name is 'mri', which has one channel, expected an image of several"):
        split_channels(task, [], "mri")
