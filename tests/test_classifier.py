"""The classifier keeps scikit-learn's contract, and says what is missing by what is missing."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from robustmdiff import RobustMDiffClassifier
from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.layout import Layout
from robustmdiff.encoders.config import ModelConfig

SMALL = ModelConfig(d_h=16, layers=1, heads=2, width=32, depth=1, draws=2, dropout=0.0)
QUICK = {"sizes": SMALL, "epochs": 5, "batch_size": 32, "learning_rate": 1e-2, "random_state": 0}


def checks() -> Iterator[Any]:
    """Those of scikit-learn, none left out; the largest table once, and slowly in other kinds of memory."""
    for estimator, check in estimator_checks_generator(RobustMDiffClassifier(**QUICK)):
        name = check.func.__name__ + "".join(f"-{value}" for value in check.keywords.values())
        slow = "check_classifiers_train-" in name
        yield pytest.param(estimator, check, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def frame() -> tuple[pd.DataFrame, pd.Series]:
    """70 patients of whom the blood count or the note tells the class, and either may be missing."""
    rng = np.random.default_rng(3)
    n = 70
    ill = rng.random(n) < 0.5
    table = pd.DataFrame(
        {
            "crp": np.where(ill, 80, 5) + rng.normal(0, 3, n),
            "wbc": rng.normal(7, 1, n),
            "sex": rng.choice(["f", "m"], n),
            "note": np.where(ill, "dense consolidation on the left", "clear lungs"),
        }
    )
    table.loc[::7, ["crp", "wbc"]] = np.nan
    table.loc[3::7, "note"] = None
    return table, pd.Series(np.where(ill, "pneumonia", "healthy"))


MODALITIES = {"blood": ["crp", "wbc"], "person": ["sex"], "note": "note"}


@pytest.fixture(scope="module")
def fitted(frame) -> RobustMDiffClassifier:
    return RobustMDiffClassifier(MODALITIES, **QUICK | {"epochs": 12}).fit(*frame)


def test_a_frame_is_learned_whatever_is_missing_of_it(fitted, frame):
    X, y = frame
    assert fitted.classes_.tolist() == ["healthy", "pneumonia"]
    assert fitted.score(X, y) > 0.9
    probability = fitted.predict_proba(X)
    assert probability.shape == (70, 2)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)


def test_a_patient_with_nothing_at_all_gets_the_prevalence(fitted, frame):
    X, y = frame
    nothing = pd.DataFrame({name: [None] for name in X})
    ill = ((y == "pneumonia").sum() + 1) / (len(y) + 2)  # one is added to each class
    np.testing.assert_allclose(fitted.predict_proba(nothing), [[1 - ill, ill]], rtol=1e-6)


def test_columns_become_the_modalities_that_they_are_said_to_be(frame):
    layout = Layout.of(frame[0], MODALITIES)
    assert [(m.name, m.kind) for m in layout.modalities] == [
        ("blood", "values"),
        ("person", "values"),
        ("note", "text"),
    ]
    assert [f.name for f in layout.modalities[0].fields] == ["crp", "wbc"]
    assert layout.modalities[1].fields[0].categories == ("f", "m")
    first, _, _, fourth = layout.patients(frame[0])[:4]
    assert not first.has("blood")
    assert first.modalities["note"] == frame[0]["note"][0]
    assert not fourth.has("note")
    assert fourth.modalities["blood"] == {"crp": frame[0]["crp"][3], "wbc": frame[0]["wbc"][3]}


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (pd.Series([1, None, 3], dtype="Int64"), [1.0, None, 3.0]),
        (pd.Series([True, None, False], dtype="boolean"), [1.0, None, 0.0]),
        (pd.Series([1.5, None, "x"], dtype=object), ["1.5", None, "x"]),
        (pd.Series([2.5, None, 1], dtype=object), [2.5, None, 1.0]),
        (pd.Series(["b", pd.NA, " a"], dtype="string"), ["b", None, "a"]),
        (pd.Series(["b", None, "b"], dtype="category"), ["b", None, "b"]),
    ],
    ids=["whole-numbers", "yes-or-no", "mixed", "numbers-as-objects", "text", "category"],
)
def test_a_cell_is_read_by_the_type_of_its_column(cells, told):
    X = pd.DataFrame({"c": cells})
    patients = Layout.of(X).patients(X)
    assert [p.modalities["table"]["c"] if p.has("table") else None for p in patients] == told


def test_an_array_names_its_columns_by_their_places():
    X = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    layout = Layout.of(X, {"left": [0], "right": [1, 2]})
    assert [[f.name for f in m.fields] for m in layout.modalities] == [["x0"], ["x1"]]
    assert [p.modalities for p in layout.patients(X)] == [
        {"left": {"x0": 1}, "right": {"x1": 2}},
        {"left": {"x0": 3}},
    ]


def test_a_category_that_training_has_not_seen_is_missing(fitted, frame):
    X = frame[0].iloc[:1].copy()
    unknown, missing = X.assign(sex="x"), X.assign(sex=None)
    np.testing.assert_array_equal(fitted.predict_proba(unknown), fitted.predict_proba(missing))


def test_several_classes_may_hold(frame):
    X, y = frame
    both = np.stack([y == "pneumonia", frame[0]["sex"] == "m"], axis=1).astype(int)
    classifier = RobustMDiffClassifier(MODALITIES, **QUICK).fit(X, both)
    assert classifier.task_.multilabel
    assert classifier.classes_.tolist() == [0, 1]
    probability = classifier.predict_proba(X)
    assert probability.shape == both.shape
    np.testing.assert_array_equal(classifier.predict(X), probability > 0.5)


def test_it_is_pickled_whole(fitted, frame):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(frame[0]), fitted.predict_proba(frame[0]))


def test_it_takes_part_in_cross_validation_and_pipelines():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 2)) + 3 * y[:, None]
    pipeline = make_pipeline(StandardScaler(), clone(RobustMDiffClassifier(**QUICK)))
    assert cross_val_score(pipeline, X, y, cv=2, scoring="roc_auc").min() > 0.9


def test_training_leaves_the_global_generators_as_they_were(frame):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    RobustMDiffClassifier(MODALITIES, **QUICK | {"epochs": 1}).fit(*frame)
    assert state() == before


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({"blood": ["crp", "wcb"]}, "column 'wcb' of 'blood' is not there, expected one of crp, wbc"),
        ({"blood": ["crp"], "a.b": ["wbc"]}, "name is 'a.b'"),
    ],
    ids=["a column that is not there", "a name that cannot be one"],
)
def test_what_cannot_be_a_modality_is_refused(frame, modalities, message):
    with pytest.raises(ValueError, match=message):
        RobustMDiffClassifier(modalities, **QUICK).fit(*frame)


def test_dates_and_words_among_numbers_are_refused(fitted, frame):
    dates = pd.DataFrame({"day": pd.to_datetime(["2020-01-01", "2020-01-02"])})
    with pytest.raises(DataError, match="column 'day' holds Timestamp, expected numbers or categories"):
        Layout.of(dates)
    with pytest.raises(DataError, match="column 'crp' has 'high', expected numbers"):
        fitted.predict(frame[0].astype({"crp": object}).assign(crp="high"))
