"""How far the draws of a patient go: so far that their intervals hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LEVEL = 0.9  # of an interval
SHOWN = 0.02  # probability from what is seen: of a class below it nobody asks how far it may move
SPREAD, PEOPLE = 1.35, 50  # what is expected of new patients, and how many of them outweigh it
NARROWEST, WIDEST = 0.5, 3.0
HALVINGS = 12


def interval_of(p: Tensor, level: float = LEVEL) -> tuple[Tensor, Tensor]:
    """The quantiles of draws p [n, S, C] between which an (S + 1)-th draw lies with this probability, [n, C]
    each. Quantiles at (1 - level) / 2 and its mirror image would hold less: .79 of .90 with 16 draws. For .90
    it takes 19 draws at least."""
    S, tail = p.shape[1], (1 - level) / 2
    low = max(((S + 1) * tail - 1) / (S - 1), 0.0)
    bounds = torch.quantile(
        p.double(), torch.tensor([low, 1 - low], dtype=torch.float64, device=p.device), dim=1
    )
    return bounds[0], bounds[1]


def held(p: Tensor, became: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Of draws p [n, S, C]: which of the intervals of LEVEL hold what the posterior became [n, C], and which
    are counted, by the posterior before [n, C]; bool [n, C] each, none held that is not counted."""
    low, high = interval_of(p)
    counted = before > SHOWN
    return (became >= low) & (became <= high) & counted, counted


def fitted_spread(posterior: Callable[[float], Tensor], became: Tensor, before: Tensor, people: int) -> float:
    """The spread with which LEVEL of the intervals hold, drawn towards SPREAD as if PEOPLE more patients had
    asked for it.

    posterior  draws [n, S, C] of what the posteriors become, by the spread.
    became     [n, C], what they became, and before [n, C], of patients whom the draws were not learned from.
    people     how many patients these are.
    """
    narrow, wide = math.log(NARROWEST), math.log(WIDEST)
    for _ in range(HALVINGS):
        middle = (narrow + wide) / 2
        holds, counted = held(posterior(math.exp(middle)), became, before)
        if float(holds.sum()) < LEVEL * float(counted.sum()):
            narrow = middle
        else:
            wide = middle
    return math.exp((people * wide + PEOPLE * math.log(SPREAD)) / (people + PEOPLE))
