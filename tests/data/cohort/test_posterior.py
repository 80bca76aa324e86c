"""The ceiling: exact against enumeration, and equal to the published table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort.draw import SITE_COMMON, SITE_RARE, States
from robustmdiff.data.cohort.posterior import posterior
from robustmdiff.data.cohort.table import MODALITIES
from robustmdiff.ranking import auroc


def small_states(K=3, F=5, seed=0):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(K))
    return States(np.eye(K, dtype=bool), np.log(prior), rng.uniform(0.05, 0.95, (K, F)))


@pytest.mark.parametrize("masked", [False, True])
def test_posterior_is_the_sum_over_all_findings(masked):
    """Against 2^5 sets of findings enumerated, evidence and mask included."""
    states, rng = small_states(), np.random.default_rng(1)
    n, K, F = 4, 3, 5
    evidence = rng.normal(0, 1.5, (n, F, 2))
    evidence[1] = 0  # nothing read
    log_site = rng.normal(0, 1, (n, K)) if masked else None
    log_mask = rng.normal(0, 2, (n, F + 1)) if masked else None
    expected = np.zeros((n, K))
    for i, k in itertools.product(range(n), range(K)):
        for findings in itertools.product((0, 1), repeat=F):
            p = states.frequency[k]
            term = np.prod([p[f] if findings[f] else 1 - p[f] for f in range(F)])
            term *= np.exp(sum(evidence[i, f, findings[f]] for f in range(F)))
            if masked:
                term *= np.exp(log_mask[i, sum(findings)])
            expected[i, k] += term
        expected[i, k] *= np.exp(states.log_prior[k] + (log_site[i, k] if masked else 0))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(posterior(states, evidence, log_site, log_mask), expected, rtol=1e-10)


def test_reading_by_reading_with_the_table():
    """One patient, two modalities, from the definition with plain products."""
    cohort = make_cohort(CohortConfig(patients=9, seed=3))
    table, i, seen = cohort.table, 5, (0, 3)
    presence = np.zeros((1, 6), dtype=bool)
    presence[0, list(seen)] = True
    log_p = np.log(table.prevalence)
    for c, f in itertools.product(range(12), range(42)):
        likelihood = [1.0, 1.0]
        for m in seen:
            if table.visible[m, f]:
                positive = (0.05, table.sensitivity[m, f])
                for side in (0, 1):
                    p = positive[side]
                    likelihood[side] *= p if cohort.drawn.readings[i, m, f] == 1 else 1 - p
        p = table.frequency[c, f]
        log_p[c] += np.log(likelihood[0] * (1 - p) + likelihood[1] * p)
    expected = np.exp(log_p) / np.exp(log_p).sum()
    np.testing.assert_allclose(cohort.posterior(presence, [i])[0], expected, rtol=1e-10)


def test_nothing_seen_gives_the_prevalence():
    cohort = make_cohort(CohortConfig(patients=3))
    out = cohort.posterior(np.zeros((3, 6), dtype=bool))
    np.testing.assert_allclose(out, np.tile(cohort.table.prevalence, (3, 1)), rtol=1e-12)


def test_wrong_shape_is_named():
    cohort = make_cohort(CohortConfig(patients=3))
    with pytest.raises(ValueError, match=r"presence has shape \(3, 5\), expected \(3, 6\)"):
        cohort.posterior(np.zeros((3, 5), dtype=bool))


@pytest.fixture(scope="module")
def many():
    return make_cohort(CohortConfig(patients=8000, seed=11))


def macro(cohort, presence, mechanism=None):
    p = cohort.posterior(presence, mechanism=mechanism)
    return np.mean([auroc(p[:, c], cohort.labels[:, c]) for c in range(12)]), p


def test_the_published_ceiling(many):
    """Published: full .994 and accuracy .90; retention .986, .956, .87; single modalities .75,
    .89, .87, .89, .88, .31. Sampling error with 8,000 patients (48 of the rarest disease) is
    about .01 of retention, for single modalities about .02; the table itself varies by .03."""
    full, p = macro(many, np.ones((8000, 6), dtype=bool))
    assert full == pytest.approx(0.994, abs=0.002)
    assert (p.argmax(axis=1) == many.labels.argmax(axis=1)).mean() == pytest.approx(0.90, abs=0.02)

    def retention(presence):
        return (macro(many, presence)[0] - 0.5) / (full - 0.5)

    for rate, published, tolerance in ((0.3, 0.986, 0.01), (0.5, 0.956, 0.015), (0.7, 0.87, 0.02)):
        mask = many.mask("mcar", rate, seed=1)
        assert retention(mask) == pytest.approx(published, abs=tolerance), rate
    singles = dict(zip(MODALITIES, (0.75, 0.89, 0.87, 0.89, 0.88, 0.31), strict=True))
    for m, (name, published) in enumerate(singles.items()):
        mask = np.zeros((8000, 6), dtype=bool)
        mask[:, m] = True
        assert retention(mask) == pytest.approx(published, abs=0.05), name


def test_the_posterior_is_calibrated(many):
    """Among patients given p about q, a share q has the disease; 5 standard errors."""
    p = many.posterior(many.mask("mcar", 0.5, seed=2))
    for low, high in ((0.05, 0.15), (0.4, 0.6), (0.85, 0.95)):
        chosen = (p > low) & (p < high)
        assert abs(many.labels[chosen].mean() - p[chosen].mean()) < 5 * 0.5 / np.sqrt(chosen.sum())


def test_an_informative_mask_is_evidence():
    """Under MNAR the posterior that also conditions on the mask has the higher likelihood."""
    kind = "mnar"
    cohort = make_cohort(CohortConfig(patients=6000, seed=5))
    mechanism = cohort.mechanism(kind, 0.6)
    mask = cohort.mask(kind, 0.6, seed=3)
    aware, blind = (cohort.posterior(mask, mechanism=m) for m in (mechanism, None))
    np.testing.assert_allclose(aware.sum(axis=1), 1)
    gain = np.log(aware[cohort.labels]) - np.log(blind[cohort.labels])
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_mar_is_the_site():
    """Under MAR the mask says nothing beyond the site: Bayes with P(site | disease)."""
    cohort = make_cohort(CohortConfig(patients=40, seed=6))
    mask = cohort.mask("mar", 0.5, seed=1)
    site = np.where(
        np.arange(12) >= 9, SITE_RARE[cohort.drawn.site, None], SITE_COMMON[cohort.drawn.site, None]
    )
    expected = cohort.posterior(mask) * site
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        cohort.posterior(mask, mechanism=cohort.mechanism("mar", 0.5)), expected, rtol=1e-9
    )


def test_multilabel_posterior_by_states():
    cohort = make_cohort(CohortConfig(patients=3, seed=1, multilabel=True))
    presence = np.array([[1, 0, 0, 1, 1, 0]] * 3, dtype=bool)
    seen = presence[..., None] & cohort.cells
    evidence = np.where(seen[..., None], cohort.evidence, 0).sum(axis=1)
    expected = np.zeros((3, 12))
    for i in range(3):
        joint = cohort.states.log_prior.copy()
        for f in range(42):
            absent, present = np.exp(evidence[i, f])
            q = cohort.states.frequency[:, f]
            joint += np.log(absent * (1 - q) + present * q)
        joint = np.exp(joint - joint.max())
        for c in range(12):
            expected[i, c] = joint[cohort.states.labels[:, c]].sum() / joint.sum()
    np.testing.assert_allclose(cohort.posterior(presence), expected, rtol=1e-9)
