"""A generator of small patients, trained for a few steps: what it makes is nonsense, of the right form."""

import pytest

from robustmdiff.experiment.generator import load_generator_config, series_of, train_generator
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study

TINY = {
    "split": ["mri"],
    "links": [["text", "xray"], ["xray", "mri_T1w"], ["xray", "ct"]],
    "frames": [["mri_T1w", "mri_T2w", "mri_PDw"]],
    "gist": 6,
    "text": 8,
    "align": {"epochs": 1, "first": 1, "d": 8, "model": {"d_h": 16, "layers": 1, "heads": 2, "patch": 8}},
    "flows": {"epochs": 2},
    "detail": {"epochs": 1},
    "translation": {"epochs": 1},
}
SOURCE = Source("cohort", options={"train": 40, "calibration": 4, "test": 12, "image_size": 16})


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator") / "run"
    train_generator(load_study(SOURCE), load_generator_config(None, TINY), folder)
    return folder


@pytest.fixture(scope="session")
def test_patients():
    study = load_study(SOURCE)
    return list(series_of(study.task, study.patients["test"], load_generator_config(None, TINY))[1])
