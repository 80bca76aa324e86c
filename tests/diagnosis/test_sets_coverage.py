"""Do prediction sets hold what they promise? On the built-in cohort, whose posterior is exact and needs no
training; a disease table on which nothing was developed.

A pool of people is divided anew into calibration and test, DRAWS times. As that exchanges them exactly, the
mean coverage over the draws is at least the promise but for the error of that mean, which is measured.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pytest

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.diagnosis.sets import Cell, ConformalSets, conformal_quantile
from robustmdiff.labels import EXCLUSIVE

DRAWS, ALPHA = 100, 0.1
NATURAL, POOL = 300, 1200  # people as they come: for calibration, and in all
M = 6


class World(NamedTuple):
    """For each number k of modalities one random subset of each: left [M + 1, n, M], p [M + 1, n, C]."""

    left: np.ndarray
    p: np.ndarray
    y: np.ndarray  # [n], the class
    prevalence: np.ndarray  # [C]
    rare: np.ndarray  # bool [C]


@pytest.fixture(scope="module")
def world():
    cohort = make_cohort(CohortConfig(patients=POOL, seed=5, table_seed=1, rare_per_class=150))
    order = np.random.default_rng(0).random((len(cohort), M)).argsort(1).argsort(1)
    left = order < np.arange(M + 1)[:, None, None]
    task = cohort.task
    return World(
        left,
        np.stack([cohort.posterior(each) for each in left]),
        cohort.labels.argmax(1),
        np.array(task.prevalence),
        np.array([name in task.rare for name in task.classes]),
    )


def draw(world, seed, per_rare):
    """Calibration people, NATURAL as they come and more of each rare class up to `per_rare`, their weights,
    and everyone else, weighted back to the population too."""
    rng = np.random.default_rng([1, seed])
    chosen = [rng.choice(POOL, NATURAL, replace=False)]
    for c in np.flatnonzero(world.rare):
        more = np.setdiff1d(np.flatnonzero(world.y == c), chosen[0])
        chosen.append(rng.permutation(more)[: max(0, per_rare - int((world.y[chosen[0]] == c).sum()))])
    calibration = np.concatenate(chosen)
    tested = np.setdiff1d(np.arange(len(world.y)), calibration)
    return calibration, weight(world, calibration), tested, weight(world, tested)


def weight(world, people):
    y = world.y[people]
    return world.prevalence[y] / np.bincount(y, minlength=len(world.prevalence))[y]


def grouped(world, calibration, weight):
    people = np.tile(calibration, M + 1)
    C = len(world.prevalence)
    return ConformalSets.fit(
        world.p[:, calibration].reshape(-1, C),
        np.eye(C)[world.y[people]],
        world.left[:, calibration].reshape(-1, M),
        ALPHA,
        rare=world.rare,
        person=people,
        weight=np.tile(weight, M + 1),
    )


def marginal(world, calibration, weight):
    """As earlier versions: a quantile for each number, averaged over the classes, of people as they come."""
    people = calibration[:NATURAL]
    score = 1 - world.p[:, people, world.y[people]]
    cells = {
        f"{k} present": Cell(conformal_quantile(score[k], 1 - ALPHA), NATURAL, "all") for k in range(M + 1)
    }
    return ConformalSets(ALPHA, EXCLUSIVE, [cells | {"all": Cell(1.0, NATURAL, "all")}])


def measured(world, make, per_rare, missing):
    """By what is measured, [DRAWS] each: coverage of rare, common and each class, and the mean set size."""
    C = len(world.prevalence)
    found = []
    for seed in range(DRAWS):
        calibration, w, tested, v = draw(world, seed, per_rare)
        sets_of = make(world, calibration, w)
        k = np.random.default_rng([2, seed]).binomial(M, 1 - missing, len(tested))
        sets = sets_of.sets(world.p[k, tested], world.left[k, tested])
        y = world.y[tested]
        covered, rare = sets[np.arange(len(tested)), y], world.rare[y]
        one = {c: covered[y == c].mean() for c in range(C)}
        one |= {
            name: np.average(covered[rows], weights=v[rows])
            for name, rows in (("rare", rare), ("common", ~rare))
        }
        found.append(one | {"size": np.average(sets.sum(1), weights=v)})
    return {name: np.array([one[name] for one in found]) for name in found[0]}


@pytest.fixture(scope="module")
def coverage(world):
    """`measured`, each once."""
    return cache(partial(measured, world))


def of_a_model(world):
    """Less sure than it could be, and often wrong: as a model of few patients."""
    prior, rng = np.log(world.prevalence), np.random.default_rng(6)
    logit = prior + 0.4 * (np.log(world.p.clip(1e-12)) - prior) + rng.normal(size=world.p.shape)
    p = np.exp(logit - logit.max(-1, keepdims=True))
    return world._replace(p=p / p.sum(-1, keepdims=True))


def promised(coverage):
    """The lowest mean that does not refute 1 - ALPHA: three errors of the mean over draws."""
    return 1 - ALPHA - 3 * coverage.std() / np.sqrt(len(coverage))


@pytest.mark.parametrize("missing", [0.0, 0.5], ids=["complete", "half missing"])
def test_rare_classes_are_covered_and_sets_stay_small(coverage, missing):
    """30 people of each rare class are 90 rare ones, who answer for each other."""
    ours, before = (coverage(make, 30, missing) for make in (grouped, marginal))
    assert ours["rare"].mean() >= max(0.88, promised(ours["rare"]))
    assert ours["common"].mean() >= promised(ours["common"])
    assert ours["size"].mean() <= before["size"].mean() + 1.2
    assert before["rare"].mean() < 0.8  # what an average over classes leaves to them


def test_nobody_is_covered_at_the_cost_of_others(world):
    """Frequent classes answer for themselves and leave the others, who are harder, to each other."""
    ours = measured(of_a_model(world), grouped, 30, 0.5)
    less_frequent = np.flatnonzero(~world.rare & (world.prevalence * NATURAL < 40))
    others = np.average([ours[c] for c in less_frequent], axis=0, weights=world.prevalence[less_frequent])
    for each in (ours["rare"], ours["common"], others):
        assert each.mean() >= promised(each)


def test_a_class_with_50_people_is_covered_for_itself(world, coverage):
    ours = coverage(grouped, 50, 0.5)
    for c in np.flatnonzero(world.rare):
        assert ours[c].mean() >= promised(ours[c])
    together = coverage(grouped, 30, 0.5)
    rarest = np.flatnonzero(world.rare)[-1]
    assert together[rarest].mean() < 0.88  # what an average over the rare leaves to the rarest of them


def test_too_few_rare_people_are_not_covered(coverage):
    """As the docs say: without 30 people they share everyone's quantile, and the promise is not theirs."""
    assert coverage(grouped, 0, 0.5)["rare"].mean() < 0.8


def test_a_person_with_many_views_counts_once():
    """Who is asked about often here is easy. Counting views would promise what it does not hold."""
    rng = np.random.default_rng(3)
    coverage = {"people": [], "views": []}
    for _ in range(DRAWS):
        views = rng.choice([1, 20], 101)
        person = np.repeat(np.arange(101), views)
        score = rng.beta(np.where(views[person] == 1, 8, 2), 4)
        new, old = person == 100, person < 100
        p, y = np.stack([1 - score, score], 1)[old], np.tile([1.0, 0.0], (old.sum(), 1))
        presence = np.ones((old.sum(), 1), dtype=bool)
        for name, whose in (("people", person[old]), ("views", None)):
            quantile = (
                ConformalSets.fit(p, y, presence, ALPHA, person=whose).quantiles[0]["1 present"].quantile
            )
            coverage[name].append((score[new] <= quantile).mean())
    people, views = (np.array(coverage[name]) for name in ("people", "views"))
    assert people.mean() >= promised(people)
    assert views.mean() < promised(views)


def test_enriched_people_are_weighted_back():
    """Of 40 people each, one class is a tenth of the population and easy. Unweighted it would lower the
    quantile that both share."""
    rng = np.random.default_rng(4)
    easy = np.arange(80) < 40
    weighted, plain = [], []
    for _ in range(DRAWS):
        score = rng.beta(np.where(easy, 1, 4), 4)
        p, y = np.stack([1 - score, score], 1), np.stack([easy, ~easy], 1)
        p[~easy] = p[~easy, ::-1]
        presence = np.ones((80, 1), dtype=bool)
        new_easy, new_hard = rng.beta(1, 4, 2000), rng.beta(4, 4, 2000)
        for found, weight in ((weighted, np.where(easy, 0.1, 0.9)), (plain, None)):
            limit = ConformalSets.fit(p, y, presence, ALPHA, weight=weight).quantiles[0]["1 present"].quantile
            found.append(0.1 * (new_easy <= limit).mean() + 0.9 * (new_hard <= limit).mean())
    assert np.mean(weighted) >= promised(np.array(weighted))
    assert np.mean(plain) < 0.88
