"""What a report says is what was written into it."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.data.cohort import report
from robustmdiff.data.cohort.mentions import findings_of
from robustmdiff.data.cohort.table import FINDINGS, disease_table

VISIBLE = disease_table(0).visible[3]


def drawn(seed: int, share: float) -> np.ndarray:
    present = np.random.default_rng(seed).random(len(FINDINGS)) < share
    return np.where(VISIBLE, present, -1).astype(np.int8)


def of(**mentions: int) -> dict[str, int]:
    return {name.replace("_", " "): said for name, said in mentions.items()}


def named(text: str) -> dict[str, int]:
    found = findings_of(text)
    return {FINDINGS[f]: int(found[f]) for f in np.flatnonzero(found >= 0)}


@pytest.mark.parametrize("share", [0.0, 0.15, 0.6, 1.0])
def test_a_report_without_typing_errors_is_read_back(monkeypatch, share):
    monkeypatch.setattr(report, "MISTYPED", 0.0)
    for seed in range(60):
        readings = drawn(seed, share)
        found = findings_of(report.write(readings, False, np.random.default_rng(seed)))
        assert ((found == 1) == (readings == 1)).all()
        assert (readings[found == 0] == 0).all()


def test_a_typing_error_in_any_word_is_undone(monkeypatch):
    monkeypatch.setattr(report, "MISTYPED", 1.0)
    for seed in range(60):
        readings = drawn(seed, 0.3)
        found = findings_of(report.write(readings, False, np.random.default_rng(seed)))
        assert ((found == 1) == (readings == 1)).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("Imaging: lungs clear.", {}),
        ("possible enlarged heart", of(cardiomegaly=1)),
        ("No cardiomegaly, LUNG MASS", of(cardiomegaly=0, lung_mass=1)),
        ("cardiomegaly pneumothorax", of(cardiomegaly=1, pneumothorax=1)),
        ("no enlarged heart, cardiomegaly", of(cardiomegaly=1)),
        ("enlarged, heart", {}),
        ("enlarged", {}),
    ],
)
def test_what_is_said_denied_and_not_mentioned(text, expected):
    assert named(text) == expected
