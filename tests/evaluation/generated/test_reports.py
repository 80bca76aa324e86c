"""A row of the table of reports, and its floors and ceilings in the order that they must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmdiff.data.cohort.cohort import make_cohort
from robustmdiff.data.cohort.config import CohortConfig
from robustmdiff.data.cohort.table import FINDINGS
from robustmdiff.evaluation.generated.reports import cohort_rows, measure_reports, report_bounds


def test_a_row_counts_what_two_reports_state():
    true = np.zeros((2, len(FINDINGS)), dtype=bool)
    true[0, FINDINGS.index("fever")] = true[1, FINDINGS.index("lung mass")] = True
    shared = np.isin(FINDINGS, ["lung mass"])
    generated = ["possible fever, lung mass.", "no fever, enlarged heart."]
    row = measure_reports(generated, ["fever.", "spiculated tumour."], true, shared, np.ones((1, 2)))
    assert row.f1_all.value == pytest.approx(2 * 1 / (3 + 2))
    assert row.f1_shared.value == 0
    assert (row.positives, row.distinct) == (1.5, 1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    train, test = (
        make_cohort(CohortConfig(patients=n, seed=seed, image_size=16), cache=cache)
        for n, seed in ((120, 0), (60, 1))
    )
    readings = [torch.from_numpy(c.drawn.readings[:, 0]).float() for c in (train, test)]  # a perfect encoder
    return cohort_rows(test, report_bounds(train, test, (readings[0], readings[1])), np.ones((1, 60)))


def test_true_readings_are_stated_in_full_and_nothing_is_stated_in_none(rows):
    assert rows["true readings, written again"].f1_all.value > 0.97  # a typing error may hide one
    assert rows["nothing found"].f1_all.value == 0
    assert rows["nothing found"].positives == 0


def test_ceilings_lie_above_floors(rows):
    f1 = {name: row.f1_shared.value for name, row in rows.items()}
    floor, ceiling = f1["a training report at random"], f1["exact posterior, F1 thresholds"]
    assert floor + 0.1 < ceiling < f1["true readings, written again"]
