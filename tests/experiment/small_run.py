"""A small run on the built-in cohort, shared by the tests of what makes, is and measures one."""

from __future__ import annotations

import pytest

from robustmdiff.encoders.config import ModelConfig
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.training.config import TrainConfig

# With fewer than nine calibration people every set would hold every class
OPTIONS = {"train": 30, "calibration": 12, "test": 5, "image_size": 16}
MODEL = ModelConfig(
    d_h=8, layers=1, heads=2, patch=8, width=12, depth=1, steps=2, draws=3, T=50, max_tokens=40
)
CONFIG = TrainConfig(model=MODEL, epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    study = load_study(Source("cohort", options=OPTIONS))
    return study, train_run(study, CONFIG, tmp_path_factory.mktemp("runs") / "run", kind="mask_only")
