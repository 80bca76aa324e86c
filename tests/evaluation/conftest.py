"""The protocol on the patients of `ward`, and the small study of tests.small_study."""

from __future__ import annotations

import pytest

from robustmdiff.diagnosis.calibration import calibrate
from tests.evaluation.ward import Stub, collate, run, ward
from tests.small_study import study  # noqa: F401


@pytest.fixture(scope="session")
def models():
    return {"stub": Stub(), "sure": Stub(2.5)}


@pytest.fixture(scope="session")
def results(models):
    """Of calibrated models."""
    calibration = ward(260, seed=1)[0]
    sets = {name: calibrate(model, calibration, (), collate).sets for name, model in models.items()}
    return run(models=models, sets=sets)


@pytest.fixture(scope="session")
def uncalibrated():
    return run()
