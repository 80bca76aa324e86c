"""Two views and a report by MedCoDi-M's stages, of a study that has more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustmdiff.data.patient import Patient
from robustmdiff.experiment.generator import (
    load_generator_config,
    series_of,
    stages_of,
    train_generator,
)
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.generation.flow_training import medcodi_m
from robustmdiff.training.config import ConfigError
from tests.generation.conftest import SOURCE, TINY

SHIPPED = Path(__file__).parents[2] / "configs" / "generate_medcodim.yaml"
SMALL = {name: TINY[name] for name in ("gist", "text", "align", "flows", "detail")}
VIEWS = ("xray", "xray_lateral", "text")


@pytest.fixture(scope="module")
def study():
    return load_study(Source("cohort", options={**SOURCE.options, "lateral": True}))


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    """The folder and the model of the configuration that is shipped, smaller."""
    folder = tmp_path_factory.mktemp("medcodim") / "run"
    return folder, train_generator(study, load_generator_config(SHIPPED, SMALL), folder)


def test_it_is_of_two_views_and_the_report_alone(study, made):
    folder, model = made
    assert len(study.task.modalities) == 7
    assert set(model.task.modality_names) == set(model.gists) == set(VIEWS)
    assert {path.name for path in (folder / "links").iterdir()} == {"text-xray", "text-xray_lateral"}
    stages = [stage.name for stage in medcodi_m("xray", "xray_lateral", "text")]
    assert {path.name for path in (folder / "stages").iterdir()} == set(stages)
    assert stages[-2:] == ["xray-xray_lateral", "xray_lateral-text"]


def test_each_is_made_from_one_other_and_from_both(study, made):
    """A modality that the generator is not of is not looked at."""
    _, model = made
    whole = study.patients["test"][0]
    for name in VIEWS:
        first, second = (other for other in VIEWS if other != name)
        by = []
        for given in ((first,), (second,), (first, second)):
            patient = Patient("same", {other: whole.modalities[other] for other in given})
            (found,) = model.generate([patient], [name], seed=1)
            assert set(found.given) == set(given)
            by.append(found.made[name][0])
        if name != "text":  # of a text so little trained may say the same of all
            assert by[0].shape == whole.modalities[name].shape
            assert not np.array_equal(by[0], by[1])
            assert not np.array_equal(by[1], by[2])


def test_more_than_two_views_are_refused_before_anything_is_made(study, tmp_path):
    for only, said in (
        ([], "there are 4 images and 1 texts .* expected two images and one text"),
        (["xray", "text"], "there are 1 images and 1 texts"),
        (["xray", "lateral", "text"], "only: unknown modality 'lateral'"),
    ):
        config = load_generator_config(SHIPPED, SMALL | {"only": only})
        with pytest.raises(ConfigError, match=said):
            train_generator(study, config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_the_views_are_in_the_order_of_the_task(study):
    config = load_generator_config(None, {"only": ["xray_lateral", "text", "xray"]})
    task, patients = series_of(study.task, study.patients["test"][:2], config)
    assert stages_of("medcodi_m", task, []) == medcodi_m("xray", "xray_lateral", "text")
    assert all(set(patient.modalities) == set(VIEWS) for patient in patients)
