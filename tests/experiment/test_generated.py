"""What is asked of a generator, and how its numbers are kept."""

import numpy as np

from robustmdiff.evaluation.statistics import Interval
from robustmdiff.experiment.generated.rows import Row, measured
from robustmdiff.experiment.generated.translations import Asked, asked_of


def test_a_series_is_asked_from_all_others_and_from_each_other_image_alone():
    frame = ("ct_1", "mri_a", "mri_b")
    image_of = {"ct_1": "ct", "mri_a": "mri", "mri_b": "mri"}
    assert asked_of(frame, image_of) == [
        Asked("ct_1", (), "others"),
        Asked("mri_a", (), "others"),
        Asked("mri_b", (), "others"),
        Asked("mri_a", ("mri_b",), "ct"),
        Asked("mri_b", ("mri_a",), "ct"),
    ]  # of the CT's others, all are of the MRI


def test_of_one_image_only_the_others_are_asked():
    frame = ("mri_a", "mri_b")
    assert asked_of(frame, dict.fromkeys(frame, "mri")) == [
        Asked("mri_a", (), "others"),
        Asked("mri_b", (), "others"),
    ]


def test_images_that_no_split_has_made_are_images_of_their_own():
    asked = asked_of(("flair", "t1", "t2"), {})
    assert asked[:3] == [Asked(name, (), "others") for name in ("flair", "t1", "t2")]
    assert Asked("flair", ("t2",), "t1") in asked
    assert len(asked) == 9


def test_what_cannot_be_said_is_none_in_the_record():
    row = Row("a -> b", "mean", "SSIM", Interval(0.5, float("nan"), float("inf")), 7)
    assert row.plain() == {
        "task": "a -> b",
        "method": "mean",
        "measure": "SSIM",
        "value": 0.5,
        "low": None,
        "high": None,
        "patients": 7,
    }
    nothing = measured("a", "b", "c", np.full(11, np.nan), [1, 2])
    assert nothing.plain()["value"] is None
    assert nothing.patients == 2
