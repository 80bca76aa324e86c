from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.splits import grouped_folds, hold_out, load_split, save_split, split_patients

FRACTIONS = {"train": 0.7, "calibration": 0.1, "test": 0.2}


def records(sizes: list[int]) -> list[Patient]:
    return [Patient(f"{g}/{i}", {}, group=f"g{g}") for g, n in enumerate(sizes) for i in range(n)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=3, max_size=40), st.integers(0, 99))
def test_everyone_is_on_one_side_with_all_their_records(sizes, seed):
    patients = records(sizes)
    labels = [len(patient.id) % 3 for patient in patients]
    split = split_patients(patients, FRACTIONS, seed, stratify=labels)
    folds = grouped_folds(patients, labels, folds=3, repeats=2, seed=seed)
    for sides in (tuple(split.values()), *folds):
        ids = [id for side in sides for id in side]
        assert sorted(ids) == sorted(patient.id for patient in patients)
        person = {id.split("/")[0]: {s for s, side in enumerate(sides) if id in side} for id in ids}
        assert all(len(where) == 1 for where in person.values())


def test_order_changes_nothing_and_the_seed_does():
    patients = records([2, 1, 3, 1, 1, 4, 2, 1, 1, 2, 3])
    shuffled = random.Random(3).sample(patients, len(patients))
    assert split_patients(patients, FRACTIONS, 5) == split_patients(shuffled, FRACTIONS, 5)
    assert split_patients(patients, FRACTIONS, 5) != split_patients(patients, FRACTIONS, 6)
    assert grouped_folds(patients, folds=3, seed=5) == grouped_folds(shuffled, folds=3, seed=5)
    once, again = grouped_folds(patients, folds=3, repeats=2, seed=5)
    assert once != again


def test_labels_are_spread_in_proportion():
    ids = [f"p{i:03d}" for i in range(130)]
    labels = ["rare" if i < 10 else "one" if i == 10 else "common" for i in range(130)]
    of = dict(zip(ids, labels, strict=True))
    split = split_patients(ids, FRACTIONS, 1, stratify=labels)
    assert {name: Counter(of[id] for id in side)["rare"] for name, side in split.items()} == {
        "train": 7,
        "calibration": 1,
        "test": 2,
    }
    assert "p010" in split["train"]  # the only one of its label
    for fold in grouped_folds(ids, labels, folds=5, seed=1)[0]:
        assert Counter(of[id] for id in fold)["rare"] == 2
        assert len(fold) in (25, 26, 27)


def test_a_split_comes_back_from_its_file(tmp_path):
    patients = records([2, 1, 3, 1, 1, 4])
    split = split_patients(patients, FRACTIONS, 5)
    save_split(tmp_path / "runs" / "split.json", split)
    assert load_split(tmp_path / "runs" / "split.json", patients) == split
    assert json.loads((tmp_path / "runs" / "split.json").read_text(encoding="utf-8")) == {
        k: list(v) for k, v in split.items()
    }


SPELLINGS = [
    ("Zo\u00eb", "Zoe\u0308"),
    ("ward 3", "ward\u00a03"),
    ("P12", "\uff30\uff11\uff12"),
    ("A-12", "A\u201112"),
    ("anna", "anna\u200b"),
    ("12", "12.0"),
]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=3, max_size=20), st.text(max_size=8), st.integers(0, 99))
def test_however_a_group_is_spelled_it_is_on_one_side(sizes, name, seed):
    """Every record of a person spells the group in another way."""
    forms = ("NFC", "NFD", "NFKC", "NFKD")
    patients = [
        Patient(f"{g}/{i}", {}, group=unicodedata.normalize(forms[i], f"\u00e9{name}{g}"))
        for g, n in enumerate(sizes)
        for i in range(n)
    ]
    split = split_patients(patients, {"train": 0.6, "test": 0.4}, seed)
    folds = grouped_folds(patients, folds=2, seed=seed)
    for sides in (tuple(split.values()), *folds):
        people = [{id.split("/")[0] for id in side} for side in sides]
        assert not people[0] & people[1]
        assert len(people[0] | people[1]) == len(sizes)


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_a_person_is_one_in_any_spelling(one, other, tmp_path):
    patients = [Patient("a", {}, group=one), Patient("b", {}, group=other), Patient(other, {})]
    assert {patient.person for patient in patients} == {one}
    with pytest.raises(ValueError, match="folds is 2, expected 2 to 1, the number of people"):
        grouped_folds(patients, folds=2)
    save_split(tmp_path / "split.json", {"train": ["a"], "test": ["b"]})
    with pytest.raises(DataError, match="'a' in 'train' and 'b' in 'test' are the same person"):
        load_split(tmp_path / "split.json", patients)
    with pytest.raises(DataError, match="occurs 2 times"):
        split_patients([one, other], {"train": 1.0}, 0)


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_an_id_in_a_split_is_found_in_any_spelling(one, other, tmp_path):
    save_split(tmp_path / "split.json", {"train": [one], "test": ["x"]})
    assert load_split(tmp_path / "split.json", [other, "x"]) == {"train": (other,), "test": ("x",)}
    save_split(tmp_path / "split.json", {"train": [one], "test": [other]})
    with pytest.raises(DataError, match="is in 'train' and in 'test', expected one of them"):
        load_split(tmp_path / "split.json")


BROKEN = {
    "twice": ({"train": ["0/0", "0/1"], "test": ["0/0"]}, r"id '0/0' is in 'train' and in 'test'"),
    "unknown": ({"train": ["0/0", "9/9"]}, r"id '9/9' in 'train' is unknown, expected ids of these 3"),
    "one person on two sides": (
        {"train": ["0/0"], "test": ["0/1"]},
        r"'0/0' in 'train' and '0/1' in 'test' are the same person \('g0'\)",
    ),
    "a list": (["0/0"], r"is no split, expected \{\"train\": \[ids\]"),
    "ids that are numbers": ({"train": [0]}, r"is no split"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_split_is_refused(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_split(path, records([2, 1]))


def test_a_truncated_or_absent_split_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read as a split"):
        load_split(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"train": ["0/', encoding="utf-8")
    with pytest.raises(DataError, match=r"cut\.json: cannot be read as a split"):
        load_split(tmp_path / "cut.json")


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="expected numbers >= 0 that sum to 1"):
        split_patients(["a", "b"], {"train": 0.7, "test": 0.2}, 0)
    with pytest.raises(ValueError, match="there are 1, expected one for each of 2 patients"):
        split_patients(["a", "b"], {"train": 1.0}, 0, stratify=["x"])
    with pytest.raises(ValueError, match="folds is 3, expected 2 to 2"):
        grouped_folds(records([5, 5]), folds=3)
    with pytest.raises(DataError, match="id 'a' occurs 2 times"):
        split_patients(["a", "a"], {"train": 1.0}, 0)


def test_hold_out_keeps_people_together_and_takes_a_tenth():
    patients = [
        Patient(f"{i}", {}, labels={"ill": i % 3 == 0, "well": i % 3 != 0}, group=f"person {i // 2}")
        for i in range(120)
    ]
    fitting, watching = hold_out(patients, seed=4)
    assert sorted(p.id for p in fitting + watching) == sorted(p.id for p in patients)
    assert not {p.group for p in fitting} & {p.group for p in watching}
    assert 8 <= len(watching) <= 16
    assert any(p.labels["ill"] for p in watching)
    assert [p.id for p in hold_out(patients[::-1], seed=4)[1]] == [p.id for p in watching]
