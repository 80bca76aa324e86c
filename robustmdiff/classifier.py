"""RobustMDiff in scikit-learn's manner: a table in, probabilities out."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d, validate_data

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.study import prevalence, texts_of
from robustmdiff.data.tables.layout import Layout
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.train import train
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.tensors import tensors
from robustmdiff.knowledge import concepts_of_task
from robustmdiff.knowledge.concepts import NOTHING_KNOWN
from robustmdiff.labels import labels_of
from robustmdiff.models import MODELS
from robustmdiff.training.config import TrainConfig

BATCH = 64  # patients at a time


class RobustMDiffClassifier(ClassifierMixin, BaseEstimator):
    """RobustMDiff for a table with a patient in each row, any part of which may be missing.

        modalities = {"labs": ["crp", "wbc"], "vitals": ["pulse"], "report": "findings"}
        classifier = RobustMDiffClassifier(modalities).fit(X, y)
        classifier.predict_proba(X)

    X is a pandas DataFrame, or an array of numbers. A column of numbers (bool included) is numeric, any other
    is categorical. NaN, None and NA are missing; a patient all of whose cells of a modality are missing lacks
    that modality. A category that `fit` has not seen is missing as well. y names one class for each patient,
    or is an indicator matrix [n, C] of 0 and 1 (several classes may hold).

    modalities     name to a list of columns: names of a DataFrame, else indices. A single column that is not
                   in a list, and is not numeric, is a text. None: all columns are one modality.
    sizes          of the network, and the number of draws that a prediction averages; None: `ModelConfig()`.
    epochs, batch_size
                   None: they adapt to the number of patients (`training.budget`), and the log says how.
    learning_rate  the highest, after the warm-up.
    random_state   of the weights, masks and noise; with the same, `fit` gives the same model.

    After `fit`: classes_ [C] (of an indicator matrix the indices of its columns), task_ (the `Task` that
    the columns were read as), model_ (the network, on the CPU), n_features_in_ and, for a DataFrame,
    feature_names_in_. It trains on every patient given: there is no validation, and prediction sets need
    calibration patients (see `robustmdiff train`).

    Raises ValueError, with the column, for what cannot be read.
    """

    def __init__(
        self,
        modalities: Mapping[str, Any] | None = None,
        *,
        sizes: ModelConfig | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.modalities = modalities
        self.sizes = sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """X [n, columns], y [n] or [n, C]."""
        X, y = self._checked(X, y=y, multi_output=True)
        check_consistent_length(X, y)
        holds, multilabel = self._labels(y)
        self._layout = Layout.of(X, self.modalities)
        names = tuple(str(name) for name in self.classes_)
        patients = [
            replace(patient, labels=dict(zip(names, row, strict=True)))
            for patient, row in zip(self._layout.patients(X), holds.tolist(), strict=True)
        ]
        counted = prevalence(patients, names, labels_of(multilabel))
        self.task_ = Task(self._layout.modalities, names, counted, multilabel=multilabel)
        self._seed = int(check_random_state(self.random_state).randint(2**31))
        with _generators_kept():
            self._train(patients, self._seed)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, float32 [n, C]; of several at once each is its own yes or no. A
        patient of whom nothing is known gets the prevalence among those of `fit`."""
        check_is_fitted(self)
        patients = self._layout.patients(self._checked(X, reset=False))
        with torch.no_grad():
            parts = [self._probability(patients[i : i + BATCH]) for i in range(0, len(patients), BATCH)]
        return torch.cat(parts).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class [n]; of several at once, whether each is likelier than not, int [n, C]."""
        probability = self.predict_proba(X)
        if self.task_.labels.exclusive:
            return self.classes_[probability.argmax(1)]
        return (probability > 0.5).astype(int)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.classifier_tags.multi_label = True
        return tags

    def _checked(self, X: Any, **how: Any) -> Any:
        """X, or X and y, checked as scikit-learn does; a DataFrame stays one."""
        if not hasattr(X, "iloc"):
            return validate_data(self, X, ensure_all_finite="allow-nan", **how)
        if 0 in X.shape:
            raise ValueError(f"X: is {list(X.shape)}, expected at least one row and one column")
        return validate_data(self, X, skip_check_array=True, **how)

    def _labels(self, y: Any) -> tuple[np.ndarray, bool]:
        """Which classes hold, bool [n, C], and whether several may; sets classes_."""
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            y = check_array(y, input_name="y")
            self.classes_ = np.arange(y.shape[1])
            return y == 1, True
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        self.classes_ = np.unique(y)
        return y[:, None] == self.classes_, False

    def _probability(self, patients: Sequence[Patient]) -> torch.Tensor:
        """[B, C]."""
        encoded = self.model_.encode(tensors(self._collator(patients)))
        return self.model_.diagnose(encoded, seed=self._seed).probability

    def _train(self, patients: Sequence[Patient], seed: int) -> None:
        """Train on every patient; sets model_."""
        sizes = self.sizes or ModelConfig()
        tokenizer = None
        if self.task_.of_kind("text"):
            tokenizer = train_tokenizer(texts_of(patients, self.task_), sizes.vocabulary or None)
            sizes = replace(sizes, vocabulary=tokenizer.get_vocab_size())
        self._collator = Collator(self.task_, tokenizer, sizes.max_tokens)
        config = TrainConfig(
            seed=seed,
            model=sizes,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            save_every=2**31,  # at the end only
        )
        torch.manual_seed(seed)
        concepts = concepts_of_task(NOTHING_KNOWN, self.task_.classes, ())
        model = MODELS["robustmdiff"].build(self.task_, sizes, concepts=concepts, tokenizer=tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            train(model, patients, [], self._collator, config, folder)
        self.model_: DiagnosisModel = model.cpu().eval()


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Training seeds the global generators; who calls `fit` keeps their state."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
