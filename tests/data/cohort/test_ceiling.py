"""The tables of docs/cohort.md, and the contact sheet."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort.ceiling import ceilings
from robustmdiff.data.cohort.sheet import contact_sheet, first_of_each_class
from robustmdiff.data.cohort.table import MODALITIES


def test_ceilings_are_ordered_as_information_is():
    rows = {row.present: row for row in ceilings(make_cohort(CohortConfig(patients=4000, seed=1)))}
    assert list(rows)[:6] == [
        "everything", "MCAR 0.3", "MCAR 0.5", "MCAR 0.7", "MCAR 0.9", "MCAR 0.9, one kept",
    ]  # fmt: skip
    assert list(rows)[6:] == [f"{name} alone" for name in MODALITIES]
    values = [rows[name].auroc for name in list(rows)[:5]]
    assert values == sorted(values, reverse=True)
    assert rows["MCAR 0.9, one kept"].auroc > rows["MCAR 0.9"].auroc
    assert rows["everything"].retention == 1
    for row in rows.values():
        assert row.retention == pytest.approx((row.auroc - 0.5) / (rows["everything"].auroc - 0.5))


def test_a_posterior_that_knows_nothing_scores_chance():
    cohort = make_cohort(CohortConfig(patients=900, seed=1))
    rows = ceilings(cohort, lambda mask, index: np.tile(cohort.table.prevalence, (len(index), 1)))
    assert {row.auroc for row in rows} == {0.5}
    assert {row.rare_recall for row in rows} == {0.0}
    assert rows[0].accuracy == pytest.approx(cohort.labels[:, 0].mean())


def test_the_contact_sheet_is_a_small_png_even_with_absent_modalities(tmp_path):
    config = CohortConfig(patients=9, image_size=24)
    cohort = make_cohort(dataclasses.replace(config, missingness="mcar", rate=0.5), cache=tmp_path)
    index = first_of_each_class(cohort)
    assert len(set(cohort.labels[index].argmax(axis=1))) == len(index)
    contact_sheet(cohort, index, tmp_path / "sheet.png")
    content = (tmp_path / "sheet.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) < 300_000
