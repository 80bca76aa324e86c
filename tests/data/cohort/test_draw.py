"""The disease table and the readings: what is fixed, and what follows from a seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort.draw import SITE_RARE, draw, states_of
from robustmdiff.data.cohort.table import DISEASES, FINDINGS, IMAGING, LABS, MODALITIES, disease_table

LAB, GENE = len(IMAGING), len(IMAGING) + len(LABS)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_table_has_the_published_shape(seed):
    table = disease_table(seed)
    percent = np.array([30, 18, 13, 10, 8, 6, 5, 4, 3, 1.5, 0.9, 0.6])
    np.testing.assert_allclose(table.prevalence, percent / percent.sum())
    P = table.frequency
    assert P.shape == (12, 42)
    assert ((P[0] > 0.04) & (P[0] < 0.10)).all()
    for c in range(1, 9):
        assert [(P[c, a:b] >= 0.5).sum() for a, b in ((0, LAB), (LAB, GENE), (GENE, 42))] == [4, 3, 0]
        assert ((P[c, GENE:] >= 0.15) & (P[c, GENE:] <= 0.35)).sum() == 1
    for c in range(9, 12):
        # A mimic's profile less its strongest imaging finding, and two and one of its own.
        shared = [(P[c] == P[d]).sum() for d in range(1, 9)]
        assert max(shared) == 3 + 3 + 1 or max(shared) == 3 + 3  # its own genotype may be the mimic's
        d = 1 + int(np.argmax(shared))
        strongest = P[d, :LAB].argmax()
        assert P[c, strongest] < 0.5
        assert (P[c, :LAB] >= 0.5).sum() == 5
        assert (P[c, LAB:GENE] >= 0.5).sum() == 4
        assert (P[c, GENE:] >= 0.5).sum() == 1
    assert ((P < 0.10) | (P >= 0.15)).all()


def test_seed_0_keeps_the_written_profiles():
    P = disease_table(0).frequency
    for c, disease in enumerate(DISEASES[1:], start=1):
        for name in (*disease.imaging, *disease.labs):
            assert P[c, FINDINGS.index(name)] >= 0.5, (disease.name, name)


def test_each_modality_sees_its_share_of_findings():
    visible = disease_table(3).visible
    counts = {
        name: [int(visible[m, a:b].sum()) for a, b in ((0, LAB), (LAB, GENE), (GENE, 42))]
        for m, name in enumerate(MODALITIES)
    }
    assert counts == {
        "xray": [18, 0, 0], "ct": [22, 0, 0], "mri": [20, 0, 0], "text": [14, 7, 4],
        "structured": [11, 12, 0], "genomic": [0, 0, 6],
    }  # fmt: skip


def test_patients_do_not_depend_on_how_many_there_are():
    few, many = (draw(CohortConfig(patients=n, seed=4), disease_table(0)) for n in (7, 23))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:7])


def test_seeds_and_tables_differ_and_repeat():
    a = draw(CohortConfig(patients=50, seed=4), disease_table(0))
    again = draw(CohortConfig(patients=50, seed=4), disease_table(0))
    other = draw(CohortConfig(patients=50, seed=5), disease_table(0))
    for x, y in zip(a, again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (a.readings != other.readings).any()
    assert not np.array_equal(disease_table(0).frequency, disease_table(1).frequency)


def test_rates_of_the_draw_are_those_of_the_table():
    n, table = 20000, disease_table(2)
    drawn = draw(CohortConfig(patients=n, seed=1, table_seed=2), table)

    def close(rate, p, count):  # five standard errors
        return np.abs(rate - p) <= 5 * np.sqrt(p * (1 - p) / count)

    assert close(drawn.labels.mean(axis=0), table.prevalence, n).all()
    for c in range(12):
        ill = drawn.labels[:, c]
        assert close(drawn.findings[ill].mean(axis=0), table.frequency[c], ill.sum()).all()
    m, f = MODALITIES.index("ct"), int(np.flatnonzero(table.visible[1])[2])
    has = drawn.findings[:, f]
    assert close((drawn.readings[has, m, f] == 1).mean(), table.sensitivity[m, f], has.sum())
    assert close((drawn.readings[~has, m, f] == 1).mean(), 0.05, (~has).sum())
    assert (drawn.readings[:, ~table.visible] == -1).all()
    rare = drawn.labels[:, -3:].any(axis=1)
    assert close(np.bincount(drawn.site[rare], minlength=3) / rare.sum(), SITE_RARE, rare.sum()).all()


def test_enriched_cohorts_keep_their_patients_and_weigh_back():
    table = disease_table(0)
    plain = draw(CohortConfig(patients=300, seed=2), table)
    rich = draw(CohortConfig(patients=300, seed=2, rare_per_class=70), table)
    np.testing.assert_array_equal(plain.readings, rich.readings[:300])
    assert (rich.labels.sum(axis=0)[-3:] == 70).all()
    assert rich.weights.mean() == pytest.approx(1)
    weighted = (rich.weights[:, None] * rich.labels).sum(axis=0) / rich.weights.sum()
    np.testing.assert_allclose(weighted, table.prevalence, atol=1e-12)
    assert (plain.weights == 1).all()


def test_noisy_or_by_enumeration():
    """P(finding | set of diseases) = 1 - (1 - background) prod (1 - cause), cause from the table."""
    table = disease_table(0)
    states = states_of(table, multilabel=True)
    assert len(states.log_prior) == 2**11
    assert np.exp(states.log_prior).sum() == pytest.approx(1)
    index = {tuple(np.flatnonzero(row)): k for k, row in enumerate(states.labels)}
    assert (0,) in index
    for diseases in itertools.chain([(3,)], [(1, 9)], [(2, 5, 11)]):
        k = index[diseases]
        for f in range(42):
            background = table.frequency[0, f]
            spared = 1 - background
            for c in diseases:
                spared *= 1 - max(0.0, 1 - (1 - table.frequency[c, f]) / (1 - background))
            assert states.frequency[k, f] == pytest.approx(1 - spared)
        # One disease alone is at least as the table says.
    assert (states.frequency[index[(3,)]] >= table.frequency[3] - 1e-12).all()


def test_multilabel_cohort_labels():
    cohort = make_cohort(CohortConfig(patients=400, multilabel=True))
    healthy = cohort.labels[:, 0]
    np.testing.assert_array_equal(healthy, ~cohort.labels[:, 1:].any(axis=1))
    assert cohort.task.multilabel
    assert cohort.task.prevalence[0] == pytest.approx(np.prod(1 - cohort.table.prevalence[1:]))
    assert (cohort.labels[:, 1:].sum(axis=1) > 1).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patients": 0}, "patients is 0, expected at least 1"),
        ({"missingness": "sometimes"}, "missingness is 'sometimes', expected one of none, mcar"),
        ({"missingness": "mcar", "rate": 1.0}, "rate is 1.0, expected a number in"),
        ({"rate": 0.3}, "missingness is 'none' but rate is 0.3"),
        ({"rare_per_class": 0}, "rare_per_class is 0, expected None"),
        ({"rare_per_class": 5, "multilabel": True}, "rare_per_class needs one label"),
        ({"image_size": 8}, "image_size is 8, expected at least 16"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        CohortConfig(**settings)
