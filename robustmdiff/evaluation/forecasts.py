"""What a forecast of the fuller view is worth: its draws of the posterior beside what the posterior became.

The model's own answer once everything is seen is what a forecast is of, so that a good score is honesty about
what seeing more will do, and says nothing about the diagnosis being right. Sizes: n patients, each under one
random view; S draws; C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from tqdm import tqdm

from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.asking import BATCH, encode, evaluating, under
from robustmdiff.diagnosis.calibration import Collate
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.width import held
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.evaluation import statistics
from robustmdiff.evaluation.statistics import Interval
from robustmdiff.forecast.contract import Seen
from robustmdiff.labels import Labels
from robustmdiff.ops import philox_key
from robustmdiff.ranking import Array, Bools

Draw = Callable[[Seen, Tensor, int, Tensor], Tensor]  # as `Forecast.draw`

DRAWS = 64
HIDDEN = 0.5  # probability that a modality is hidden
TOP = 0.2  # share of the tests that are scored as chosen
METRICS = ("energy", "coverage", "rho", "error", "tests")


class Asked(NamedTuple):
    """Patients who have something hidden, under one random view each.

    seen       what is visible
    view       bool [n, M], everything that was observed
    y, p       the latent [n, D] and the posterior [n, C] under it
    one_more   float [n, M, C], the posterior with modality j as well; NaN where j is visible or not there
    persons    [n], whose record each row is
    """

    seen: Seen
    view: Tensor
    y: Tensor
    p: Tensor
    one_more: Tensor
    persons: tuple[str, ...]

    @property
    def hidden(self) -> Tensor:
        """int64 [n]: how many modalities are hidden."""
        return (self.view & ~self.seen.m).sum(1)


class Scores(NamedTuple):
    """The scores of a forecast, float64 [R + 1] each: the estimate and its bootstrap replicates over people.

    energy    energy score of the posterior (Gneiting and Raftery 2007, eq. 22, the fair form); low is good
    coverage  share of the intervals of LEVEL that hold, over the classes with a probability of at least SHOWN
    rho       Spearman's correlation of the expected move of the posterior with its move, over patients
    error     mean squared error of the mean latent
    by_hidden of energy and coverage, by the number of modalities hidden
    tests     share of the achievable change that lies in the TOP part of (patient, test) pairs, chosen by the
              expected change
    """

    energy: Array
    coverage: Array
    rho: Array
    error: Array
    by_hidden: Mapping[int, tuple[Array, Array]]
    tests: Array

    def interval(self, metric: str) -> Interval | None:
        return statistics.interval(getattr(self, metric))


class Comparison(NamedTuple):
    """Forecasts on the same patients, views and resamples.

    scores       of each, the model's own first
    fixed_order  `Scores.tests` of asking for tests in one order, whoever the patient is
    people       how many were asked about
    """

    scores: Mapping[str, Scores]
    fixed_order: Array
    people: int


def ask(model: RobustMDiff, patients: Sequence[Patient], collator: Collate, seed: int = 0) -> Asked:
    """Hides each modality of a patient with probability HIDDEN, and asks the model before and after. Patients
    of whom nothing came to be hidden are left out."""
    generator = np.random.Generator(np.random.Philox(seed))
    parts: list[Asked] = []
    with evaluating(model):
        for start in tqdm(
            range(0, len(patients), BATCH), desc="ask", unit="batch", disable=None, leave=False
        ):
            some = patients[start : start + BATCH]
            encoded = encode(model, collator(some))
            u = generator.random(tuple(encoded.m.shape))
            part = _asked(model, encoded, u >= HIDDEN, [patient.person for patient in some])
            if part is not None:
                parts.append(part)
    if not parts:
        raise ValueError("ask: nothing can be hidden of any of the patients, expected one with a modality")
    seen = Seen(*(torch.cat(x) for x in zip(*(part.seen for part in parts), strict=True)))
    view, y, p, one_more = (torch.cat(x) for x in list(zip(*parts, strict=True))[1:-1])
    return Asked(seen, view, y, p, one_more, tuple(person for part in parts for person in part.persons))


@torch.no_grad()
def score(
    model: RobustMDiff,
    forecasts: Mapping[str, Draw],
    asked: Asked,
    usual_change: Tensor,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    replicates: int = 200,
) -> Comparison:
    """Every forecast on the same patients, views and resamples of people. A forecast draws `model`'s
    latents, and has been fitted on other patients; usual_change [M] is how far each modality moves a
    posterior on average, by which a fixed order goes."""
    key = philox_key(seed, device=asked.y.device)
    weights = statistics.resamples(asked.persons, replicates, seed)
    found = {}
    for name, forecast in tqdm(forecasts.items(), desc="score", disable=None, leave=False):
        scores, _ = scored(model, forecast, asked, weights, draws, key)
        expected = _expected_changes(model, forecast, asked, draws, key)
        found[name] = scores._replace(tests=_chosen_tests(asked, expected, model.labels, weights))
    order = usual_change.nan_to_num(0).expand(asked.view.shape)
    people = len(set(asked.persons))
    return Comparison(found, _chosen_tests(asked, order, model.labels, weights), people)


@torch.no_grad()
def scored(
    model: RobustMDiff, forecast: Draw, asked: Asked, weights: Array, draws: int, key: Tensor
) -> tuple[Scores, Tensor]:
    """The scores of one forecast, all but those of its tests, under the resamples `weights` [R + 1, n]; and
    the posteriors that it drew [n, S, C]."""
    y = _draw(forecast, asked.seen, asked.view, draws, key)
    p = torch.cat([model.probability_from(part) for part in y.split(256)])
    return _scores(model.labels, asked, y, p, weights), p


def difference(a: Scores, b: Scores, metric: str = "energy") -> Interval | None:
    """a - b, paired."""
    return statistics.interval(statistics.difference(getattr(a, metric), getattr(b, metric)))


def energy_score(p: Tensor, became: Tensor) -> Tensor:
    """E|P - q| - E|P - P'| / 2 of draws p [n, S, C] and what it became, q [n, C] -> [n]; Euclidean, the
    second expectation over different draws, so that it does not depend on how many there are."""
    S, exact = p.shape[1], "donot_use_mm_for_euclid_dist"  # by products, equal draws would not be 0 apart
    between = torch.cdist(p, p, compute_mode=exact).sum((1, 2)) / (S * (S - 1))
    return (p - became[:, None]).norm(dim=-1).mean(1) - between / 2


def _asked(model: RobustMDiff, encoded: Encoded, kept: Bools, persons: Sequence[str]) -> Asked | None:
    present = encoded.m.cpu().numpy()
    m = present & kept
    rows = np.flatnonzero((present & ~m).any(1)).astype(np.int64)
    if not len(rows):
        return None
    M, C = present.shape[1], len(model.task.classes)
    more = np.stack([m | (present & (np.arange(M) == j)) for j in range(M)])
    left = np.concatenate([m[None], present[None], more])  # [2 + M, B, M]

    def say(view: Encoded) -> Tensor:
        y = model.condense(model.observe(view))
        return torch.cat([y, model.probability_from(y)], dim=-1)

    device = encoded.segments.device
    said = torch.from_numpy(under(encoded, left, say)[:, rows]).float().to(device)
    y, p = said[..., :-C], said[..., -C:]
    assert encoded.evidence is not None
    view, visible = (torch.from_numpy(x[rows]).to(device) for x in (present, m))
    evidence = model.together(encoded.evidence[torch.from_numpy(rows).to(device)], visible)
    one_more = p[2:].transpose(0, 1).where((view & ~visible)[..., None], torch.nan)
    whose = tuple(persons[row] for row in rows.tolist())
    return Asked(Seen(y[0], visible, evidence, p[0]), view, y[1], p[1], one_more, whose)


@torch.no_grad()
def _draw(forecast: Draw, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
    """In parts: a patient's draws do not depend on the others."""
    rows = torch.arange(len(view), device=view.device).split(BATCH)
    return torch.cat([forecast(seen.take(some), view[some], draws, key) for some in rows])


def _scores(labels: Labels, asked: Asked, y: Tensor, p: Tensor, weights: Array) -> Scores:
    energy = energy_score(p, asked.p).double().cpu().numpy()
    holds, counted = (x.cpu().numpy() for x in held(p, asked.p, asked.seen.p))
    expected = labels.distance(p, asked.seen.p[:, None]).mean(1).cpu().numpy()
    moved = labels.distance(asked.p, asked.seen.p).cpu().numpy()
    error = (y.mean(1) - asked.y).square().mean(1).cpu().numpy()
    hidden = asked.hidden.cpu().numpy()
    by_hidden = {
        count: (_mean(energy[rows], weights[:, rows]), _ratio(holds[rows], counted[rows], weights[:, rows]))
        for count in range(1, int(hidden.max()) + 1)
        if (rows := np.flatnonzero(hidden == count)).size
    }
    rho = np.array([_spearman(expected, moved, w) for w in weights])
    coverage = _ratio(holds, counted, weights)
    return Scores(_mean(energy, weights), coverage, rho, _mean(error, weights), by_hidden, np.empty(0))


def _mean(x: Array, weights: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return weights @ x / weights.sum(1)


def _ratio(holds: Bools, of: Bools, weights: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return weights @ holds.sum(1) / (weights @ of.sum(1))


def _spearman(a: Array, b: Array, weight: Array) -> float:
    """Spearman's correlation of rows that count as often as `weight` says; NaN of fewer than 2."""
    rows = np.repeat(np.arange(len(a)), weight.astype(int))
    if len(rows) < 2:
        return float("nan")
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(rankdata(a[rows]), rankdata(b[rows]))[0, 1])


def _expected_changes(model: RobustMDiff, forecast: Draw, asked: Asked, draws: int, key: Tensor) -> Tensor:
    """E|p_s - p_m| of seeing modality j as well, total variation [n, M]; NaN where it cannot be seen."""
    change = torch.full(asked.view.shape, torch.nan, device=asked.view.device)
    for j in range(change.shape[1]):
        rows = (asked.view & ~asked.seen.m)[:, j].nonzero()[:, 0]
        if len(rows):
            seen = asked.seen.take(rows)
            view = seen.m.clone()
            view[:, j] = True
            p = model.probability_from(_draw(forecast, seen, view, draws, key))
            change[rows, j] = model.labels.distance(p, seen.p[:, None]).mean(1)
    return change


def _chosen_tests(asked: Asked, expected: Tensor, labels: Labels, weights: Array) -> Array:
    moved = labels.distance(asked.one_more, asked.seen.p[:, None])  # [n, M]
    can = moved.isfinite()
    rows = can.nonzero()[:, 0].cpu().numpy()
    by, became = expected[can].cpu().numpy(), moved[can].cpu().numpy()
    return np.array([share_of_top(by, became, w[rows]) for w in weights])


def share_of_top(expected: Array, moved: Array, weight: Array, top: float = TOP) -> float:
    """The change that is caught by the fifth of all tests that is expected to change most, as a share of what
    the best choice of a fifth would catch; each [k], a test counting as often as `weight` says."""

    def caught(by: Array) -> float:
        order = np.argsort(-by, kind="stable")
        before = np.cumsum(weight[order]) - weight[order]
        counted = np.clip(top * weight.sum() - before, 0, weight[order])
        return float(counted @ moved[order])

    best = caught(moved)
    return caught(expected) / best if best > 0 else float("nan")
