"""What an X-ray tells of a report: Bayes' rule written out, and the cohort's own readings."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.data.cohort.cohort import make_cohort
from robustmdiff.data.cohort.config import CohortConfig
from robustmdiff.data.cohort.table import SPECIFICITY
from robustmdiff.data.cohort.told import told
from robustmdiff.refusal import Refusal

XRAY, TEXT = 0, 3


def test_the_probability_is_bayes_rule_over_diseases():
    cohort = make_cohort(CohortConfig(patients=4, seed=2))
    table, found = cohort.table, told(cohort, "xray", "text").probability
    shown = [f for f in range(42) if table.visible[TEXT, f]]
    for i in range(4):
        for f in shown[::4]:
            top = bottom = 0.0
            for c, prior in enumerate(table.prevalence):
                both, likelihood = 1.0, prior
                for g in range(42):
                    q, reading = table.frequency[c, g], cohort.drawn.readings[i, XRAY, g]
                    s = table.sensitivity[XRAY, g]
                    if_present, if_absent = {
                        1: (s, 1 - SPECIFICITY), 0: (1 - s, SPECIFICITY), -1: (1, 1),
                    }[int(reading)]  # fmt: skip
                    likelihood *= q * if_present + (1 - q) * if_absent
                    if g == f:
                        said = q * if_present * table.sensitivity[TEXT, f]
                        said += (1 - q) * if_absent * (1 - SPECIFICITY)
                        both = said / (q * if_present + (1 - q) * if_absent)
                top, bottom = top + likelihood * both, bottom + likelihood
            assert found[i, f] == pytest.approx(top / bottom, rel=1e-9)
    assert (found[:, ~table.visible[TEXT]] == 0).all()


def test_the_probabilities_are_calibrated_on_the_readings_drawn():
    cohort = make_cohort(CohortConfig(patients=20_000, seed=5))
    p, said = told(cohort, "xray", "text").probability, cohort.drawn.readings[:, TEXT] == 1
    for low, high in ((0.04, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.9)):
        here = (p >= low) & (p < high)
        sd = np.sqrt(p[here].mean() / here.sum())
        assert said[here].mean() == pytest.approx(p[here].mean(), abs=5 * sd)


def test_draws_have_the_probabilities_and_hang_together():
    cohort = make_cohort(CohortConfig(patients=3, seed=7))
    posterior, rng = told(cohort, "xray", "text"), np.random.default_rng(0)
    drawn = np.stack([posterior.draw(rng) for _ in range(4000)])
    shown = cohort.table.visible[TEXT]
    assert (drawn[..., ~shown] == -1).all()
    rate = (drawn[..., shown] == 1).mean(0)
    assert rate == pytest.approx(posterior.probability[:, shown], abs=0.04)  # 5 sd
    # Findings of one disease come together: joint frequency above the product of the two.
    apart = np.cov((drawn[:, 0][:, shown] == 1).T)
    assert (apart - np.diag(np.diag(apart))).max() > 0.01


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"multilabel": True}, "multilabel is True, expected False"),
        ({"correlation": 0.3}, "correlation is 0.3, expected 0.0"),
        ({"missingness": "mcar", "rate": 0.3}, "missingness is 'mcar', expected 'none'"),
    ],
)
def test_other_cohorts_are_refused(config, reason):
    with pytest.raises(Refusal, match=reason):
        told(make_cohort(CohortConfig(patients=4, **config)), "xray", "text")


def test_another_modality_is_refused():
    with pytest.raises(Refusal, match="modality is 'report', expected one of xray, ct"):
        told(make_cohort(CohortConfig(patients=4)), "xray", "report")
