"""Random trials: the same for every method, the best by log loss, and resumed to the bit."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from robustmdiff.baselines.logistic_regression import LogisticRegression
from robustmdiff.baselines.mask_only import MaskOnly
from robustmdiff.data.patient import DataError
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.experiment import tuning
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.experiment.tuning import OPTIONS, SETTINGS, TRIALS, Trial, best_of, draw, tune
from robustmdiff.models import BY_NAME
from robustmdiff.training.config import TrainConfig

CONFIG = TrainConfig(
    model=ModelConfig(d_h=8, layers=1, heads=2, patch=8, max_tokens=24), epochs=4, batch_size=16
)


@pytest.fixture(scope="module")
def study():
    options = {"train": 40, "calibration": 20, "test": 3, "image_size": 16}
    return load_study(Source("cohort", options=options))


def test_methods_are_drawn_from_one_space_alike():
    by_steps = [kind for kind in BY_NAME if kind not in OPTIONS]
    assert set(OPTIONS) <= set(BY_NAME)
    for number in range(TRIALS):
        first = draw(by_steps[0], number, seed=0)
        assert first.settings.keys() == SETTINGS.keys()
        assert first.options == {}
        assert all(draw(kind, number, seed=0) == first for kind in by_steps)
    for kind, space in OPTIONS.items():
        assert draw(kind, 0, seed=0).settings == {}
        assert draw(kind, 0, seed=0).options.keys() == space.keys()


def test_draws_differ_from_trial_to_trial_and_cover_their_range():
    drawn = [draw("robustmdiff", number, seed=0).settings for number in range(400)]
    rates = np.array([one["learning_rate"] for one in drawn])
    assert len(set(rates)) > 300
    assert rates.min() >= 3e-4
    assert rates.max() <= 6e-3
    # half of a log-uniform range lies below its geometric mean; 400 draws: .5 +- 4 sd of .025
    assert np.mean(rates < (3e-4 * 6e-3) ** 0.5) == pytest.approx(0.5, abs=0.1)
    assert set(Counter(one["model.dropout"] for one in drawn)) == {0.0, 0.1, 0.3}
    assert draw("robustmdiff", 0, seed=1) != draw("robustmdiff", 0, seed=0)


def test_a_trial_changes_what_it_names_and_nothing_else():
    trial = Trial({"learning_rate": 0.004, "model.dropout": 0.3}, {})
    changed = trial.configure(CONFIG)
    assert (changed.learning_rate, changed.model.dropout) == (0.004, 0.3)
    back = Trial({"learning_rate": CONFIG.learning_rate, "model.dropout": CONFIG.model.dropout}, {})
    assert back.configure(changed) == CONFIG


@pytest.mark.parametrize("kind", ["mask_only", "logistic_regression"])
def test_the_best_trial_is_that_of_the_lowest_log_loss(kind, study, tmp_path):
    tune(study, CONFIG, tmp_path, kind, trials=3)
    best, seconds = best_of(tmp_path, 3)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("*.json"))]
    assert len(records) == 3
    losses = [record["log_loss"] for record in records]
    assert len(set(losses)) == 3
    assert best == draw(kind, int(np.argmin(losses)), seed=0)
    assert seconds == sum(record["cpu_seconds"] for record in records)
    assert best_of(tmp_path, 4) is None
    assert {path.name for path in tmp_path.iterdir()} == {f"trial-{n:02}.json" for n in range(3)}


def test_a_method_that_is_too_sure_is_scored_as_it_ships_tempered(study, tmp_path, monkeypatch):
    def found(name):
        tune(study, CONFIG, tmp_path / name, "logistic_regression", trials=1)
        record = json.loads((tmp_path / name / "trial-00.json").read_text(encoding="utf-8"))
        return record["log_loss"], record["metrics"]["log_loss"]

    plain = found("plain")
    classify = LogisticRegression.classify
    monkeypatch.setattr(
        LogisticRegression,
        "classify",
        lambda model, view: (said := classify(model, view))._replace(logits=5 * said.logits),
    )
    sure = found("sure")
    # One of 20 people votes for T = 1, with a loss of (log 5)^2 / 2: no more than a 20th of that is left.
    assert sure[0] - plain[0] == pytest.approx(0, abs=np.log(5) ** 2 / 2 / 20)
    assert sure[1] - plain[1] > 0.5


def test_a_trial_that_was_cut_off_goes_on_and_gives_the_same(study, tmp_path, monkeypatch):
    tune(study, CONFIG, tmp_path / "whole", "mask_only", trials=2)
    steps = []

    def stop(self):
        steps.append(1)
        if len(steps) == 9:  # of 8 in the first trial: the second is under way
            raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(MaskOnly, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            tune(study, CONFIG, tmp_path / "parts", "mask_only", trials=2)
    assert (tmp_path / "parts" / "trial-01").is_dir()
    made = []
    monkeypatch.setattr(
        tuning, "build_model", lambda *a, build=tuning.build_model: made.append(a) or build(*a)
    )
    tune(study, CONFIG, tmp_path / "parts", "mask_only", trials=2)
    assert len(made) == 1
    assert best_of(tmp_path / "parts", 2).trial == best_of(tmp_path / "whole", 2).trial
    for number in range(2):
        one, other = (
            json.loads((tmp_path / where / f"trial-{number:02}.json").read_text(encoding="utf-8"))
            for where in ("whole", "parts")
        )
        assert {**one, "cpu_seconds": 0} == {**other, "cpu_seconds": 0}


def test_trials_of_another_plan_are_refused(study, tmp_path):
    tune(study, CONFIG, tmp_path, "logistic_regression", trials=1)
    other = CONFIG.model_copy(update={"gamma": 0.0})
    for arguments, options in (((study, other), {}), ((study, CONFIG), {"seed": 1})):
        with pytest.raises(DataError, match=r"trial-00\.json: is a trial of something else, expected"):
            tune(*arguments, tmp_path, "logistic_regression", trials=1, **options)
