from __future__ import annotations

import json

import numpy as np
import pytest

from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.evaluation.conditions import COMPLETE, MCAR, MNAR, Complete, Subset, condition_of, mcar
from robustmdiff.evaluation.masks import Masks, draw_masks
from robustmdiff.evaluation.protocol import evaluate
from robustmdiff.evaluation.report import write_report

AWKWARD = ("a+b", "x/y", "ä", "SpO2 %", "%2B", "a", "b")


@pytest.mark.parametrize(
    "condition",
    [
        COMPLETE,
        MCAR(0.5),
        MCAR(0.25, at_least_one=True),
        MNAR(0.5),
        Subset(("ct",)),
        Subset(AWKWARD),
        *(Subset((name,)) for name in AWKWARD),
        Subset(("a", "b")),
    ],
    ids=lambda condition: condition.key,
)
def test_a_condition_is_what_its_key_says(condition):
    assert condition_of(condition.key) == condition


def test_keys_are_those_of_earlier_versions():
    assert COMPLETE.key == "mcar/0.0"
    assert [MCAR(p / 10).key for p in range(1, 10)] == [f"mcar/{p / 10:.1f}" for p in range(1, 10)]
    assert MCAR(0.3, at_least_one=True).key == "kept1/0.3"
    assert Subset(("ct", "notes")).key == "subset/ct+notes"
    assert condition_of("kept1/0.0") == mcar(0.0, at_least_one=True) == Complete()


def test_no_two_subsets_share_a_key():
    keys = [Subset(names).key for names in (("a+b",), ("a", "b"), ("a%2Bb",), ("a%252Bb",))]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("key", ["", "mcar", "mcar/half", "mcar/1.5", "mcar/nan", "mnar/1", "some/0.5"])
def test_what_is_no_condition_is_refused(key):
    with pytest.raises(ValueError, match=f"condition is {key!r}, expected one such as 'mcar/0.5'"):
        condition_of(key)
    for rate in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=f"MCAR: rate is {rate}, expected a number between 0 and 1"):
            MCAR(rate)
        with pytest.raises(ValueError, match=f"MNAR: rate is {rate}, expected a number between 0 and 1"):
            MNAR(rate)


def test_labels_are_for_people():
    assert COMPLETE.label == "all that was observed"
    assert MCAR(0.5).label == "missing 0.5"
    assert MCAR(0.5, at_least_one=True).label == "missing 0.5, one kept"
    assert MNAR(0.5).label == "missing 0.5, by severity"
    assert Subset(("a+b", "ä")).label == "a+b, ä"


def test_masks_of_modalities_called_anything_are_kept(tmp_path):
    """A task refuses "+" and "/" in a name today; masks do not rely on it."""
    presence = np.random.default_rng(0).random((9, 3)) < 0.8
    masks = draw_masks([str(i) for i in range(9)], presence, ("a+b", "x/y", "ä"))
    masks.save(tmp_path / "masks.npz")
    again = Masks.load(tmp_path / "masks.npz")
    assert list(again.keep) == list(masks.keep)
    assert [len(subset.names) for subset in again.subsets] == [1, 1, 1, 2, 2, 2, 3]
    for condition, keep in masks.keep.items():
        np.testing.assert_array_equal(again.keep[condition], keep)


def test_modalities_may_be_called_what_a_task_allows(tmp_path, undrawn):
    """Three modalities with unusual names, through the whole evaluation."""
    names = ("SpO2 %", "x - y", "ä")
    task = Task(
        modalities=tuple(Modality(name, "values", fields=(Field("x"),)) for name in names),
        classes=("well", "ill"),
        prevalence=(0.5, 0.5),
    )
    rng = np.random.default_rng(0)
    patients = [
        Patient(str(i), {name: {"x": 1.0} for name in names}, labels={"well": i % 2 == 0, "ill": i % 2 == 1})
        for i in range(40)
    ]
    score = np.clip(np.arange(40) % 2 * 0.3 + rng.random(40) * 0.7, 0, 1)

    def answer(left):
        p = np.where(left[:, 0], score, 0.5)  # reads "SpO2 %" only
        return np.stack([1 - p, p], axis=1)

    found = evaluate({}, patients, Collator(task), task, references={"reader": answer}, replicates=10)
    assert len(found.masks.subsets) == 7
    assert found.values["reader"][Subset(("SpO2 %",))]["auroc/macro"][0] > 0.7
    assert found.values["reader"][Subset(("x - y", "ä"))]["auroc/macro"][0] == 0.5
    assert [subset.names for subset in found.worst_subsets("reader", 3)] == [
        ("x - y",),
        ("x - y", "ä"),
        ("ä",),
    ]
    text = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert "| x - y, ä |" in text
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {condition_of(key) for key in stored["methods"]["reader"]["conditions"]} == set(found.masks.keep)
    again = Masks.load(tmp_path / "masks.npz")
    assert list(again.keep) == list(found.masks.keep)


def test_masks_of_an_earlier_version_load_or_say_what_to_do(tmp_path):
    masks = draw_masks(["p", "q"], np.ones((2, 2), dtype=bool), ("a+b", "c"))
    old = ["mcar/0.0", "mcar/0.5", "kept1/0.5", "subset/a+b", "subset/c", "subset/a+b+c"]
    keep = np.packbits(np.stack([masks.keep[COMPLETE]] * len(old)), axis=-1)
    stored = {"ids": masks.ids, "rates": (0.0, 0.5), "names": old, "keep": keep}
    with (tmp_path / "masks.npz").open("wb") as file:
        np.savez(file, modalities=("a", "b"), **{**stored, "names": old[:4], "keep": keep[:4]})
    assert list(Masks.load(tmp_path / "masks.npz").keep)[3] == Subset(("a", "b"))
    with (tmp_path / "masks.npz").open("wb") as file:
        np.savez(file, modalities=("a+b", "c"), **stored)
    with pytest.raises(
        ValueError, match=r"masks\.npz: condition is 'subset/a\+b', expected .* evaluate` again"
    ):
        Masks.load(tmp_path / "masks.npz")
