from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.baselines.source_only import SourceOnly
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task

CLASSES = ("a", "b", "c")


def task(multilabel=False):
    return Task((Modality("m", "values", fields=(Field("x"),)),), CLASSES, (0.5, 0.25, 0.25), multilabel)


def at(site, label):
    return Patient(f"{site}-{label}", {}, labels={c: c == label for c in CLASSES}, site=site)


def test_frequencies_by_site():
    training = [at("north", "a")] * 6 + [at("north", "b")] * 3 + [at("south", "c")] * 9 + [at(None, "a")] * 2
    source = SourceOnly(task(), training)
    everywhere = np.array([8.5, 3.25, 9.25]) / 21
    p = source.probability([at("north", "c"), at("south", "a"), at("west", "a"), at(None, "b")])
    np.testing.assert_allclose(p[0], (np.array([6, 3, 0]) + everywhere) / 10)
    np.testing.assert_allclose(p[1], (np.array([0, 0, 9]) + everywhere) / 10)
    np.testing.assert_allclose(p[2:], [everywhere, everywhere])
    np.testing.assert_allclose(p.sum(1), 1)
    assert source.probability([]).shape == (0, 3)


def test_unknown_labels_do_not_count():
    known = Patient("k", {}, labels={"a": True, "b": False}, site="s")
    source = SourceOnly(task(multilabel=True), [known, Patient("u", {}, site="s")])
    everywhere = [1.5 / 2, 0.25 / 2, 0.25]
    assert source.everywhere == pytest.approx(everywhere)
    assert source.probability([known])[0] == pytest.approx([1.75 / 2, 0.125 / 2, 0.25])
