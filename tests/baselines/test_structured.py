"""Models of tables give what scikit-learn gives, and are kept without a program to run."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression as Classifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from robustmdiff.baselines.gradient_boosting import GradientBoosting
from robustmdiff.baselines.logistic_regression import LogisticRegression
from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.pretrained import save_pretrained
from robustmdiff.diagnosis.train import train
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.tensors import tensors
from robustmdiff.models import MODELS, load_model
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import CheckpointError
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.notes import read_notes

CONFIG = ModelConfig(d_h=8, layers=1, heads=2, patch=4)
BOOSTING = {"trees": 11, "leaves": 5, "smallest_leaf": 7, "l2": 0.3, "learning_rate": 0.2}
SAME = {
    "max_iter": 11,
    "max_leaf_nodes": 5,
    "l2_regularization": 0.3,
    "learning_rate": 0.2,
}
CLOSE = {"rtol": 0, "atol": 1e-6}  # answers are float32
HIDDEN = "gases"


def make_task(classes="abc", multilabel=False):
    prevalence = {2: (0.6, 0.4), 3: (0.5, 0.3, 0.2)}[len(classes)]
    blood = Field("crp", "mg/L"), Field("type", categories=("A", "B", "0"))
    return Task(
        modalities=(
            Modality("scan", "image", shape=(1, 8, 8)),
            Modality("blood", "values", fields=blood),
            Modality("gases", "values", fields=(Field("pH"), Field("pO2", "kPa"), Field("never"))),
        ),
        classes=tuple(classes),
        prevalence=prevalence,
        multilabel=multilabel,
    )


def draw_patients(task, n=160, seed=0):
    """The label moves every value a little; cells and panels are missing at random, the scan never is."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        y = int(rng.integers(len(task.classes)))
        panels = {
            "blood": {"crp": float(rng.normal(3 * y, 2)), "type": "AB0"[int(rng.integers(3))]},
            "gases": {"pH": float(rng.normal(7.4 - 0.1 * y, 0.1)), "pO2": float(rng.normal(11, 2))},
        }
        for name, panel in panels.items():
            measured = {key: value for key, value in panel.items() if rng.random() < 0.8}
            panels[name] = measured if rng.random() < 0.8 else None
        more = [task.multilabel and rng.random() < 0.2 for _ in task.classes]
        labels = {name: c == y or more[c] for c, name in enumerate(task.classes)}
        made.append(Patient(f"p{seed}-{i}", {"scan": torch.zeros(1, 8, 8), **panels}, labels))
    return made


def rows(patients, hide=()):
    """X as a reader of this test would write it, float64 [n, 7] with NaN."""
    table = []
    for patient in patients:
        blood, gases = ({} if n in hide else patient.modalities[n] or {} for n in ("blood", "gases"))
        one_hot = [float(blood["type"] == c) if "type" in blood else math.nan for c in "AB0"]
        table.append([blood.get("crp", math.nan), *one_hot])
        table[-1] += [gases.get(name, math.nan) for name in ("pH", "pO2", "never")]
    return np.float32(table).astype(np.float64)  # a batch holds float32


def visible(patients, hide=()):
    return np.array([any(p.has(n) for n in ("blood", "gases") if n not in hide) for p in patients])


@pytest.fixture(params=["two classes", "three classes", "several labels"])
def task(request):
    classes = "ab" if request.param == "two classes" else "abc"
    return make_task(classes, request.param == "several labels")


@pytest.fixture
def learned(task):
    """learned(build) -> a model that was shown everybody twice, once without gases; with what it was shown:
    X, labels and weights [n, C]."""
    patients = draw_patients(task)
    batch = collate(task, patients)
    weight = torch.linspace(0.5, 1.5, len(patients))[:, None] + torch.arange(len(task.classes)) / 4
    kept = torch.ones_like(batch.presence)
    kept[:, 2] = False

    def learn(build, **options):
        model = build(task, CONFIG, **options)
        model.learn([(batch, batch.presence, weight), (batch, kept, weight)])
        both = [rows(patients)[visible(patients)], rows(patients, [HIDDEN])[visible(patients, [HIDDEN])]]
        seen = np.concatenate([visible(patients), visible(patients, [HIDDEN])])
        y = np.tile(np.asarray(batch.label) > 0.5, (2, 1))[seen]
        return model.eval(), np.concatenate(both), y, np.tile(weight.double().numpy(), (2, 1))[seen]

    return learn


def collate(task, patients):
    return tensors(Collator(task)(patients))


def answers(model, patients, hide=()):
    """Of patients of whom something is visible."""
    encoded = model.encode(collate(model.task, patients))
    keep = torch.ones_like(encoded.m)
    for name in hide:
        keep[:, model.task.modality_names.index(name)] = False
    return model.diagnose(encoded.keep(keep)).probability[visible(patients, hide)].numpy()


def expected(task, fit, X, y, weight, test):
    """p [n, C] of scikit-learn: one classifier, or one of each class where several labels may hold."""
    if not task.multilabel:
        return fit(X, y.argmax(1), weight[y]).predict_proba(test)  # of a patient the weight of what they have
    each = [fit(X, y[:, c], weight[:, c]).predict_proba(test)[:, 1] for c in range(y.shape[1])]
    return np.stack(each, axis=1)


@pytest.mark.parametrize("hide", [(), (HIDDEN,)], ids=["all", "without gases"])
def test_logistic_regression_is_scikit_learn_s(task, learned, hide):
    model, X, y, weight = learned(LogisticRegression, l2=0.01)
    test = draw_patients(task, 60, seed=1)

    def fit(X, y, weight):
        imputed = SimpleImputer(strategy="median", keep_empty_features=True)
        features = make_union(imputed, MissingIndicator(features="all"))
        classifier = Classifier(C=1 / (0.01 * weight.sum()), max_iter=1000)
        pipeline = make_pipeline(features, StandardScaler(), classifier)
        return pipeline.fit(X, y, logisticregression__sample_weight=weight)

    asked = rows(test, hide)[visible(test, hide)]
    found = answers(model, test, hide)
    np.testing.assert_allclose(found, expected(task, fit, X, y, weight, asked), **CLOSE)


@pytest.mark.parametrize("hide", [(), (HIDDEN,)], ids=["all", "without gases"])
def test_gradient_boosting_is_scikit_learn_s_with_nan_where_nothing_is(task, learned, hide):
    model, X, y, weight = learned(GradientBoosting, **BOOSTING)
    test = draw_patients(task, 60, seed=1)

    smallest = round(7 * len(X) / visible(draw_patients(task)).sum())  # 7 patients, each in two rows or one

    def fit(X, y, weight):
        settings = {"min_samples_leaf": smallest, "early_stopping": False, "random_state": 0}
        return HistGradientBoostingClassifier(**settings, **SAME).fit(X, y, sample_weight=weight)

    asked = rows(test, hide)[visible(test, hide)]
    found = answers(model, test, hide)
    X, asked = X[:, :-1], asked[:, :-1]  # it takes no column that is empty
    np.testing.assert_allclose(found, expected(task, fit, X, y, weight, asked), **CLOSE)
    assert np.ptp(found, axis=0).min() > 0.1  # it has learned to tell patients apart


@pytest.mark.parametrize("build", [LogisticRegression, GradientBoosting])
def test_what_is_no_panel_is_never_seen(build):
    task = make_task()
    encoded = build(task, CONFIG).encode(collate(task, draw_patients(task, 9)))
    assert not encoded.m[:, 0].any()
    assert encoded.m[:, 1:].any()


@pytest.mark.parametrize("build", [LogisticRegression, GradientBoosting])
def test_a_task_without_panels_is_refused(build):
    task = make_task()
    pictures = dataclasses.replace(task, modalities=task.modalities[:1])
    with pytest.raises(Refusal, match="modalities are scan, expected one of kind 'values' among them"):
        build(pictures, CONFIG)
    suited = [kind.suits(pictures) for kind in (MODELS["logistic_regression"], MODELS["late_fusion"])]
    assert suited == [False, True]


@pytest.mark.parametrize("build", [LogisticRegression, GradientBoosting])
@pytest.mark.parametrize("multilabel", [False, True])
def test_a_class_that_nobody_has_keeps_its_prevalence(build, multilabel):
    task = dataclasses.replace(make_task("abc", multilabel), prevalence=(0.6, 0.4, 0.0))
    patients = [
        dataclasses.replace(p, labels=p.labels | {"c": False})
        for p in draw_patients(task)
        if p.labels["a"] or p.labels["b"]
    ]
    batch = collate(task, patients)
    model = build(task, CONFIG)
    model.learn([(batch, batch.presence, torch.ones_like(batch.label))])
    p = answers(model, patients)
    np.testing.assert_allclose(p[:, 2], 1e-5, rtol=1e-3)  # `labels.RAREST`
    assert np.ptp(p[:, 0]) > 0.1
    if not multilabel:
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("build", [LogisticRegression, GradientBoosting])
def test_patients_of_one_class_teach_nothing(build):
    task = make_task()
    patients = [p for p in draw_patients(task) if p.labels["a"]]
    batch = collate(task, patients)
    model = build(task, CONFIG)
    model.learn([(batch, batch.presence, torch.ones_like(batch.label))])
    np.testing.assert_allclose(
        answers(model, patients), [task.prevalence] * visible(patients).sum(), atol=1e-6
    )


TRAINING = TrainConfig(model=CONFIG, epochs=3, batch_size=40)
KINDS = {"logistic_regression": {"l2": 0.02}, "gradient_boosting": BOOSTING}


def trained(kind, folder, **changes):
    task = make_task()
    model = MODELS[kind].build(task, CONFIG, concepts=None, tokenizer=None, **KINDS[kind])
    patients = draw_patients(task), draw_patients(task, 50, seed=1)
    config = TRAINING.model_copy(update=changes)
    return train(model, *patients, Collator(task), config, folder, resume=True, name=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_fits_it_once_and_finds_it_again(kind, tmp_path, monkeypatch):
    first = trained(kind, tmp_path)
    assert first.steps == first.best_step == 0
    assert {"macro_auroc", "log_loss", "log_loss@0.5"} <= first.metrics.keys()
    assert first.metrics["macro_auroc"] > 0.6
    assert {note.topic for note in read_notes(tmp_path)} == set()  # the steps are few, and it has none
    monkeypatch.setattr(type(first.model), "learn", lambda *_: pytest.fail("learned again"))
    again = trained(kind, tmp_path)
    assert again.metrics == first.metrics
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    with pytest.raises(
        CheckpointError, match="is from another config: seed is 0 in the checkpoint and 1 now"
    ):
        trained(kind, tmp_path, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_shown_the_masks_of_the_others(kind, tmp_path, monkeypatch):
    """Of each epoch everybody, more hidden from epoch to epoch; and no more than the plan's weights."""
    seen = []
    model = type(MODELS[kind].build(make_task(), CONFIG, concepts=None, tokenizer=None))
    learn = model.learn
    monkeypatch.setattr(model, "learn", lambda self, shown: learn(self, seen.extend(shown) or seen))
    trained(kind, tmp_path, p_nothing=0.0, p_min=0.0, p_spread=False, p_structured=0.0, r=1.0)
    assert len(seen) == 12
    kept = [sum(int(k.sum()) for _, k, _ in seen[i : i + 4]) for i in (0, 4, 8)]
    assert kept[0] > kept[1] > kept[2]
    ids = sorted(id for batch, _, _ in seen[:4] for id in batch.ids)
    assert ids == sorted(p.id for p in draw_patients(make_task()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_same_answers_and_holds_arrays_only(kind, tmp_path):
    model = trained(kind, tmp_path / "run").model
    save_pretrained(model, tmp_path / "model", kind=kind, options=KINDS[kind])
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.json", "model.safetensors"}
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == model.state_dict().keys()
    again, _ = load_model(tmp_path / "model")
    test = draw_patients(make_task(), 60, seed=1)
    np.testing.assert_array_equal(answers(again, test), answers(model, test))


def test_trees_that_are_kept_otherwise_than_was_read_are_noticed(learned, monkeypatch):
    """As after a change inside scikit-learn, whose trees have no public name."""
    decide = HistGradientBoostingClassifier.decision_function
    monkeypatch.setattr(
        HistGradientBoostingClassifier, "decision_function", lambda self, X: decide(self, X) * 1.01
    )
    with pytest.raises(RuntimeError, match=r"scikit-learn .* keeps its trees otherwise than was read"):
        learned(GradientBoosting, **BOOSTING)
