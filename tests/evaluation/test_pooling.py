from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.evaluation.conditions import COMPLETE
from robustmdiff.evaluation.forecasts import METRICS, Comparison, Scores
from robustmdiff.evaluation.masks import draw_masks
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.pooling import over_repeats, over_seeds, pool
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import over_seeds as mean_over_seeds
from robustmdiff.evaluation.statistics import resamples
from robustmdiff.refusal import Refusal

CLASSES = ("well", "ill", "very ill")
TASK = Task(
    modalities=(Modality("a", "values", fields=(Field("x"),)), Modality("b", "text")),
    classes=CLASSES,
    prevalence=(0.5, 0.3, 0.2),
)
N, PERSONS = 70, 31
IDS = [f"p{i:02}" for i in range(N)]
LABEL = np.eye(3, dtype=bool)[np.random.default_rng(0).integers(0, 3, N)]
PRESENCE = np.random.default_rng(1).random((N, 2)) < 0.8
SITES = {"site north": np.arange(N) % 3 > 0, "site south": np.arange(N) < 2}
MASKS = draw_masks(IDS, PRESENCE, TASK.modality_names)


def measured(rows, seed, replicates=0):
    """One set of patients, answered by two methods; answers differ with the seed."""
    groups = [f"person {i % PERSONS}" for i in rows]
    truth = Truth(LABEL[rows], np.ones((len(rows), 3), dtype=bool))
    sites = {name: at[rows] for name, at in SITES.items() if at[rows].any()}
    masks = MASKS.of([IDS[i] for i in rows])
    results = Results(TASK, masks, PRESENCE[rows], truth, groups=tuple(groups), subgroups=sites)
    weights = resamples(groups, replicates)
    noise = np.random.default_rng(seed)
    for method, skill in (("good", 2.0), ("weak", 0.4)):
        for condition in MASKS.keep:
            logit = skill * LABEL + noise.normal(size=(N, 3))
            p = np.exp(logit[rows]) / np.exp(logit[rows]).sum(1, keepdims=True)
            sets = p > 0.2 if method == "good" else None
            results.add(method, condition, p, weights, sets)
    return results


def folds(seed):
    order = np.random.default_rng(seed).permutation(N)
    return [measured(rows, seed) for rows in np.array_split(order, 4)]


def test_folds_pooled_are_one_test_set():
    whole, pooled = measured(np.arange(N), 5, replicates=30), pool(folds(5), replicates=30)
    assert pooled.masks.ids == tuple(IDS)
    assert pooled.groups == whole.groups
    for condition, keep in MASKS.keep.items():
        np.testing.assert_array_equal(pooled.masks.keep[condition], keep)
        for method in ("good", "weak"):
            assert set(pooled.values[method][condition]) == set(whole.values[method][condition])
            for metric, value in whole.values[method][condition].items():
                np.testing.assert_allclose(
                    pooled.values[method][condition][metric], value, atol=1e-6, err_msg=metric
                )
    assert set(pooled.subgroups) == set(SITES)
    for name, at in SITES.items():
        np.testing.assert_array_equal(pooled.subgroups[name], at)
    assert pooled.of_subgroup.keys() == whole.of_subgroup.keys() == {"site north"}
    north, pooled_north = (one.of_subgroup["site north"]["good"][COMPLETE] for one in (whole, pooled))
    assert north.keys() == pooled_north.keys() == {"ece", "in_the_large", "coverage"}
    for metric, value in north.items():
        np.testing.assert_allclose(pooled_north[metric], value, atol=1e-6, err_msg=metric)
    assert "coverage" in pooled.values["good"][COMPLETE]
    assert "coverage" not in pooled.values["weak"][COMPLETE]


def test_repeats_are_averaged_resample_by_resample():
    repeats = [pool(folds(seed), replicates=30) for seed in (5, 6, 7)]
    mean = over_repeats(repeats)
    by_hand = [
        np.mean([roc_auc_score(LABEL[:, c], r.probability["weak"][COMPLETE][:, c]) for c in range(3)])
        for r in repeats
    ]
    assert mean.interval("weak", COMPLETE, "auroc/macro").value == pytest.approx(np.mean(by_hand))
    difference = mean.difference("good", "weak", COMPLETE, "auroc/macro")
    assert difference.low < difference.value < difference.high
    third = [r.values["good"][COMPLETE]["brier"][3] for r in repeats]
    assert mean.values["good"][COMPLETE]["brier"][3] == pytest.approx(np.mean(third))


def test_seeds_are_averaged_and_widen_the_interval():
    runs = [measured(np.arange(N), seed, replicates=60) for seed in (5, 6, 7)]
    mean = over_seeds(runs)
    values = [run.values["weak"][COMPLETE]["auroc/macro"] for run in runs]
    found = mean.values["weak"][COMPLETE]["auroc/macro"]
    assert found[0] == pytest.approx(np.mean([v[0] for v in values]))
    np.testing.assert_array_equal(found, mean_over_seeds(np.stack(values)))
    assert mean.difference("good", "weak", COMPLETE, "auroc/macro").low > 0
    assert mean.methods == ["good", "weak"]
    assert mean.notes == ("Means over 3 runs that differ in their seed; intervals hold patients and seeds.",)
    np.testing.assert_array_equal(
        over_seeds(runs[:1]).values["good"][COMPLETE]["brier"], runs[0].values["good"][COMPLETE]["brier"]
    )


def test_seeds_are_averaged_of_what_all_runs_have():
    runs = [measured(np.arange(N), seed) for seed in (5, 6)]
    del runs[1].values["weak"]
    del runs[1].values["good"][COMPLETE]["coverage"]
    mean = over_seeds(runs)
    assert mean.methods == ["good"]
    assert "coverage" not in mean.values["good"][COMPLETE]
    assert "auroc/macro" in mean.values["good"][COMPLETE]


def forecasts(seed, names):
    """Scores of the forecasts of these names, all numbers drawn."""
    drawn = np.random.default_rng(seed).random

    def scores():
        metrics = {metric: drawn(31) for metric in METRICS}
        return Scores(**metrics, by_hidden={hidden: (drawn(31), drawn(31)) for hidden in (1, 2)})

    return Comparison({name: scores() for name in names}, drawn(31), people=9)


def test_forecasts_are_averaged_of_those_that_all_runs_have():
    runs = [measured(np.arange(N), seed, replicates=30) for seed in (1, 2, 3)]
    for seed, run in enumerate(runs):
        run.forecasts = forecasts(seed, ("flow", "ridge")[: 1 + (seed > 0)])
    mean = over_seeds(runs).forecasts
    assert list(mean.scores) == ["flow"]
    assert mean.people == 9

    def expected(of):
        return mean_over_seeds(np.stack([of(run.forecasts) for run in runs]))

    for metric in METRICS:
        found = getattr(mean.scores["flow"], metric)
        np.testing.assert_array_equal(found, expected(lambda one, m=metric: getattr(one.scores["flow"], m)))
    for part in (0, 1):
        found = mean.scores["flow"].by_hidden[2][part]
        np.testing.assert_array_equal(
            found, expected(lambda one, part=part: one.scores["flow"].by_hidden[2][part])
        )
    np.testing.assert_array_equal(mean.fixed_order, expected(lambda one: one.fixed_order))
    runs[1].forecasts = None
    assert over_seeds(runs).forecasts is None


def test_notes_of_all_are_kept_once():
    several = [replace(one, notes=("Few.", f"Of {k}.")) for k, one in enumerate(folds(5))]
    assert pool(several, replicates=0).notes == ("Few.", "Of 0.", "Of 1.", "Of 2.", "Of 3.")
    runs = [replace(measured(np.arange(N), seed), notes=("Few.",)) for seed in (5, 6)]
    assert over_repeats(runs).notes == ("Few.",)


def test_what_cannot_be_pooled_is_refused():
    one = folds(5)
    with pytest.raises(ValueError, match="pool: folds are 5 of 88 patients, expected each patient once"):
        pool([*one, one[0]])
    with pytest.raises(ValueError, match="pool: folds are 0"):
        pool([])
    with pytest.raises(ValueError, match="over_repeats: repeats are of different patients"):
        over_repeats([pool(one), pool(one[:3])])
    with pytest.raises(ValueError, match="over_seeds: runs is empty, expected at least one"):
        over_seeds([])
    whole = measured(np.arange(N), 5)
    rows = draw_masks(IDS, PRESENCE, TASK.modality_names, seed=1)
    with pytest.raises(ValueError, match="over_seeds: runs have different masks"):
        over_seeds([whole, replace(whole, masks=rows)])
    other = replace(whole, values={"other": whole.values["weak"]})
    with pytest.raises(Refusal, match="over_seeds: runs have no method in common"):
        over_seeds([whole, other])
    few = draw_masks(IDS, PRESENCE, TASK.modality_names, rates=(0.0, 0.5))
    with pytest.raises(ValueError, match="over_seeds: runs have different conditions"):
        over_seeds([whole, replace(whole, masks=few)])
