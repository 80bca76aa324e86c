"""Masks: their rates, what they depend on, and what they leave of a patient."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort.table import MODALITIES

MRI = MODALITIES.index("mri")


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(CohortConfig(patients=20000, seed=2))


@pytest.mark.parametrize("kind", ["mcar", "mar", "mnar"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
def test_the_rate_holds_for_every_modality(cohort, kind, rate):
    missing = 1 - cohort.mask(kind, rate, seed=5).mean(axis=0)
    # Five standard errors, and .006 for the grid of ages and the rounding of ages to years.
    assert np.abs(missing - rate).max() <= 5 * np.sqrt(rate * (1 - rate) / 20000) + 0.006 * (rate > 0)


def test_what_each_kind_depends_on(cohort):
    severity = cohort.drawn.findings.sum(axis=1)
    for kind in ("mcar", "mar", "mnar"):
        missing = ~cohort.mask(kind, 0.5, seed=6)[:, MRI]
        by_site = [missing[cohort.drawn.site == s].mean() for s in range(3)]
        by_age = np.corrcoef(missing, cohort.drawn.age)[0, 1]
        by_severity = np.corrcoef(missing, severity)[0, 1]
        if kind == "mar":
            assert by_site[0] > by_site[1] + 0.2 > by_site[2] + 0.4
            assert by_age > 0.2
        else:
            assert max(by_site) - min(by_site) < 0.05
            assert abs(by_age) < 5 / np.sqrt(20000)
        if kind == "mnar":
            assert by_severity > 0.3
        else:  # under MAR only through the site's rare diseases
            assert abs(by_severity) < 0.05


def test_keep_one_leaves_nobody_with_nothing(cohort):
    plain = cohort.mask("mcar", 0.9, seed=7)
    kept = cohort.mask("mcar", 0.9, seed=7, keep_one=True)
    empty = ~plain.any(axis=1)
    assert empty.mean() == pytest.approx(0.9**6, abs=5 * 0.5 / np.sqrt(20000))
    assert kept.any(axis=1).all()
    np.testing.assert_array_equal(plain[~empty], kept[~empty])
    assert (kept[empty].sum(axis=1) == 1).all()
    # Every modality is equally likely to be the one.
    share = kept[empty].mean(axis=0)
    assert np.abs(share - 1 / 6).max() < 5 * np.sqrt(5 / 36 / empty.sum())


def test_keep_one_keeps_one_that_the_cohort_has():
    cohort = make_cohort(CohortConfig(patients=500, seed=1, missingness="mcar", rate=0.6))
    kept = cohort.mask("mcar", 0.9, seed=3, keep_one=True) & cohort.presence
    assert (kept.any(axis=1) == cohort.presence.any(axis=1)).all()


def test_masks_repeat_and_differ_by_seed(cohort):
    a, b, c = (cohort.mask("mnar", 0.4, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("kind", ["mcar", "mar", "mnar"])
def test_cells_go_missing_only_in_panels(kind):
    cohort = make_cohort(CohortConfig(patients=4000, missingness=kind, cell_rate=0.2))
    assert cohort.presence.all()
    visible = cohort.table.visible
    hidden = ~cohort.cells & visible
    assert not hidden[:, :4].any()
    for m in (4, 5):
        n = 4000 * visible[m].sum()
        # Cells of one patient share their probability: up to 23 cells go together.
        assert hidden[:, m][:, visible[m]].mean() == pytest.approx(0.2, abs=5 * 0.4 * np.sqrt(23 / n) + 0.006)


def test_log_likelihood_is_that_of_the_draw():
    """P(mask | severity) from the definition, for one patient and every severity."""
    cohort = make_cohort(CohortConfig(patients=5, missingness="mnar", rate=0.4, cell_rate=0.3))
    mechanism = cohort.mechanism()
    site, age = cohort.drawn.site[:1], cohort.drawn.age[:1]
    presence = np.array([[True, False, True, False, True, False]])
    got = mechanism.log_likelihood(presence, (np.array([3]), np.array([20])), site, age)
    assert got.shape == (1, 43)
    for k in range(43):
        p = mechanism.missing_probability(site, age, np.array([k]))[0]
        expected = np.prod(np.where(presence[0], 1 - p[:6], p[:6])) * p[6] ** 3 * (1 - p[6]) ** 20
        assert np.exp(got[0, k]) == pytest.approx(expected, rel=1e-9)


def test_unknown_kind_is_named(cohort):
    with pytest.raises(ValueError, match="kind is 'random', expected one of none, mcar, mar, mnar"):
        cohort.mask("random", 0.5, seed=0)
