"""Findings of one organ that come together: how often, and what the exact posterior makes of it."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import multivariate_normal

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort.draw import States, draw, stream
from robustmdiff.data.cohort.organs import ORGAN_FINDINGS, ORGANS
from robustmdiff.data.cohort.posterior import posterior
from robustmdiff.data.cohort.table import FINDINGS, disease_table

RHO = 0.6


@pytest.fixture(scope="module")
def many():
    return make_cohort(CohortConfig(patients=12000, seed=8, correlation=RHO))


def test_no_finding_is_of_two_organs():
    named = [name for names in ORGANS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) < set(FINDINGS)
    assert [[FINDINGS[f] for f in organ] for organ in ORGAN_FINDINGS] == [
        list(names) for names in ORGANS.values()
    ]


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({"seed": 4}, "cdd7fded6ba3f3f8"),
        (
            {"seed": 4, "table_seed": 3, "rare_per_class": 9, "missingness": "mnar", "rate": 0.4},
            "bf15b0c0022b120b",
        ),
        (
            {"seed": 2, "multilabel": True, "missingness": "mar", "rate": 0.3, "cell_rate": 0.2},
            "87cd0417a43e596c",
        ),
    ],
)
def test_without_correlation_patients_are_those_of_earlier_versions(settings, digest):
    cohort = make_cohort(CohortConfig(patients=40, **settings))
    drawn = cohort.drawn
    state = (cohort.states.labels[None] == drawn.labels[:, None]).all(axis=2).argmax(axis=1)
    u = stream(cohort.config, "findings").random(drawn.findings.shape)
    np.testing.assert_array_equal(drawn.findings, u < cohort.states.frequency[state])
    bits = np.concatenate(
        [a.ravel() for a in (drawn.labels, drawn.findings, drawn.readings == 1, cohort.cells)]
    )
    found = hashlib.sha256(np.packbits(np.concatenate([bits, cohort.presence.ravel()])).tobytes())
    assert found.hexdigest()[:16] == digest


def test_correlated_patients_do_not_depend_on_how_many_there_are():
    few, more = (draw(CohortConfig(patients=n, correlation=RHO), disease_table(0)) for n in (7, 23))
    for a, b in zip(few, more, strict=True):
        np.testing.assert_array_equal(a, b[:7])


def test_each_finding_is_as_frequent_as_without(many):
    for c in range(12):
        ill = many.labels[:, c]
        p = many.table.frequency[c]
        share = many.drawn.findings[ill].mean(axis=0)
        assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / ill.sum())).all()


def test_two_findings_come_together_as_two_normal_variables_do(many):
    """Of one organ P(both | disease) is the bivariate normal's, of two organs the product."""
    organ_of = {f: g for g, organ in enumerate(ORGAN_FINDINGS) for f in organ}
    for c in (0, 1):
        findings, p = many.drawn.findings[many.labels[:, c]], many.table.frequency[c]
        for a, b in itertools.combinations(range(len(FINDINGS)), 2):
            both = p[a] * p[b]
            if organ_of.get(a, -1) == organ_of.get(b, -2):
                both = multivariate_normal.cdf(ndtri(p[[a, b]]), cov=[[1, RHO], [RHO, 1]])
            share = (findings[:, a] & findings[:, b]).mean()
            assert abs(share - both) <= 5 * np.sqrt(both * (1 - both) / len(findings)), (a, b)


def chance(findings, states, k):
    """P(this set of findings | state k), each factor integrated over 4,001 values."""
    u = np.linspace(-12, 12, 4001)[:, None]
    density = np.exp(-(u[:, 0] ** 2) / 2) / np.sqrt(2 * np.pi)
    findings, p, rho = np.array(findings), states.frequency[k], states.correlation
    alone = [f for f in range(len(p)) if all(f not in organ for organ in states.organs)]
    total = np.prod(np.where(findings, p, 1 - p)[alone])
    for organ in states.organs:
        below = ndtr((ndtri(p[organ]) - np.sqrt(rho) * u) / np.sqrt(1 - rho))
        total *= np.trapezoid(density * np.where(findings[organ], below, 1 - below).prod(axis=1), u[:, 0])
    return total


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rho", [0.05, 0.6, 0.9])
def test_the_posterior_is_the_sum_over_all_findings(rho, masked):
    """Against 2^6 sets of findings enumerated: two organs, one finding of none."""
    rng = np.random.default_rng(3)
    n, K, F = 4, 3, 6
    states = States(
        np.eye(K, dtype=bool),
        np.log(rng.dirichlet(np.ones(K))),
        rng.uniform(0.05, 0.95, (K, F)),
        organs=(np.array([0, 3, 4]), np.array([1, 5])),
        correlation=rho,
    )
    evidence = rng.normal(0, 2, (n, F, 2))
    evidence[1] = 0  # nothing read
    log_site = rng.normal(0, 1, (n, K)) if masked else None
    log_mask = rng.normal(0, 2, (n, F + 1)) if masked else None
    expected = np.zeros((n, K))
    for findings, k in itertools.product(itertools.product((0, 1), repeat=F), range(K)):
        p = chance(findings, states, k)
        for i in range(n):
            seen = sum(evidence[i, f, findings[f]] for f in range(F))
            expected[i, k] += p * np.exp(seen + (log_mask[i, sum(findings)] if masked else 0))
    expected *= np.exp(states.log_prior + (log_site if masked else 0))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(posterior(states, evidence, log_site, log_mask), expected, rtol=0, atol=1e-7)


def test_the_posterior_is_calibrated_and_independence_is_too_sure(many):
    """Five standard errors; the second is what a table of independent findings reaches at best."""
    mask = many.mask("mcar", 0.5, seed=2)[:5000]
    label = many.labels[:5000]
    exact, independent = (many.posterior(mask, np.arange(5000), correlation=rho) for rho in (None, 0.0))
    too_sure = [
        p.max(axis=1).mean() - (p.argmax(axis=1) == label.argmax(axis=1)).mean() for p in (exact, independent)
    ]
    error = 5 * 0.5 / np.sqrt(len(label))
    assert abs(too_sure[0]) < error < too_sure[1]
    gain = np.log(exact[label]) - np.log(independent[label])
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))


def test_independence_assumed_is_the_posterior_of_the_plain_cohort():
    correlated, plain = (make_cohort(CohortConfig(patients=30, seed=8, correlation=rho)) for rho in (RHO, 0))
    np.testing.assert_array_equal(
        correlated.posterior(correlation=0), plain.posterior_from(correlated.evidence)
    )


def test_severity_is_counted_with_the_correlation(many):
    """The number of findings as drawn against its distribution, which MNAR masks rest on."""
    expected = many.mechanism("mnar", 0.3).severity_distribution
    share = np.bincount(many.drawn.findings.sum(axis=1), minlength=43) / len(many)
    assert expected.sum() == pytest.approx(1)
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected / len(many)) + 1e-9).all()
    missing = 1 - many.mask("mnar", 0.3, seed=4).mean(axis=0)
    assert (np.abs(missing - 0.3) <= 5 * np.sqrt(0.3 * 0.7 / len(many))).all()


def test_several_diseases_at_once_share_organs_too():
    cohort = make_cohort(CohortConfig(patients=3, multilabel=True, correlation=RHO))
    mask = np.array([[True] * 6, [False] * 6])
    something, nothing = cohort.posterior(mask, [0, 1])
    np.testing.assert_allclose(nothing, cohort.task.prevalence, rtol=1e-9)
    assert ((something > 0) & (something < 1)).all()
