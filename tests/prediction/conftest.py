"""Forty people and a run that was trained on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustmdiff import Predictor
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.studies import load_study
from tests.experiment.test_other_folder import CONFIG, ONE, ONTOLOGY, source_of, write_folder


@pytest.fixture(scope="package")
def data(tmp_path_factory) -> Path:
    """The data; the run lies beside it."""
    root = write_folder(tmp_path_factory.mktemp("hospital") / "one", ONE, other=False)
    (root.parent / "ontology.obo").write_text(ONTOLOGY, encoding="utf-8")
    config = CONFIG.model_copy(update={"epochs": 1, "valid_every": 1})
    train_run(load_study(source_of(root)), config, root.parent / "run")
    return root


@pytest.fixture(scope="package")
def run(data) -> Path:
    return data.parent / "run"


@pytest.fixture(scope="package")
def predictor(run) -> Predictor:
    return Predictor.from_pretrained(run)
