"""A small study of patients who lack some of their modalities, as in tests.small_study."""

from __future__ import annotations

import pytest

from robustmdiff.alignment.config import AlignConfig
from robustmdiff.encoders.config import EncoderConfig
from tests.small_study import make_study, study  # noqa: F401


@pytest.fixture(scope="session")
def sizes(study):  # noqa: F811
    return EncoderConfig(
        d_h=8, layers=1, heads=2, patch=8, dropout=0.1, max_tokens=33, vocabulary=study.config.vocabulary
    )


@pytest.fixture(scope="session")
def config(sizes):
    short = {"epochs": 2, "batch_size": 5, "first": 2, "save_every": 1, "log_every": 1}
    return AlignConfig(model=sizes, d=5, lambda_vi=0.02, **short)


@pytest.fixture(scope="session")
def whole(make_study):  # noqa: F811
    """Patients who have everything."""
    return make_study()
