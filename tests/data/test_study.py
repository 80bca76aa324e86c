from __future__ import annotations

import pytest

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.study import prevalence, texts_of
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE, INDEPENDENT

CLASSES = ("ill", "well", "rare")


def labelled(*names: str) -> list[Patient]:
    return [Patient(f"{i}", {}, labels={name: True}) for i, name in enumerate(names)]


def test_prevalence_of_one_diagnosis_each_sums_to_one():
    found = prevalence(labelled("ill", "ill", "ill", "well", "well"), CLASSES, EXCLUSIVE)
    assert sum(found) == pytest.approx(1)
    assert found == pytest.approx((4 / 8, 3 / 8, 1 / 8))  # nobody has the third: it keeps a chance


def test_whoever_is_known_by_what_they_do_not_have_alone_counts_for_no_diagnosis():
    patients = [*labelled("ill", "well"), Patient("c", {}, labels={"ill": False})]
    assert prevalence(patients, CLASSES, EXCLUSIVE) == pytest.approx((2 / 5, 2 / 5, 1 / 5))


def test_prevalence_of_independent_diagnoses_counts_those_who_know():
    patients = [
        Patient("a", {}, labels={"flu": True, "gout": False}),
        Patient("b", {}, labels={"flu": True}),
        Patient("c", {}, labels={"flu": False}),
    ]
    assert prevalence(patients, ("flu", "gout"), INDEPENDENT) == pytest.approx((3 / 5, 1 / 3))


def test_where_nothing_is_known_the_odds_are_even():
    assert prevalence([], CLASSES, EXCLUSIVE) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert prevalence([Patient("a", {})], CLASSES, INDEPENDENT) == (0.5, 0.5, 0.5)


def test_texts_are_those_of_every_text_modality():
    labs = Modality("labs", "values", fields=(Field("crp"),))
    task = Task((Modality("notes", "text"), Modality("letter", "text"), labs), ("ill",), (1.0,))
    patients = [
        Patient("a", {"notes": "cough", "labs": {"crp": 4.0}}),
        Patient("b", {"notes": "", "letter": "better"}),
        Patient("c", {"notes": None}),
    ]
    assert texts_of(patients, task) == ["cough", "", "better"]
