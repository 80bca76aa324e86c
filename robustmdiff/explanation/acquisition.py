"""Which absent modality to obtain next: how far would seeing it be expected to move the diagnosis?

A generative model draws what the modality may show, and the expected effect of that ranks the modalities,
as in EDDI (Ma et al. 2019), which goes by the Kullback-Leibler divergence. Here the effect is a distance in
units of probability, beside the information that the outcome gives about the class (Lindley 1956).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustmdiff.diagnosis.views import held_by
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.labels import Labels
from robustmdiff.next_test import Change, NextTest, ranked
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.diagnosis.model import RobustMDiff

DRAWS = 64  # from which on an answer is steady


def rank_next_tests(
    model: RobustMDiff, encoded: Encoded, *, patient: int = 0, draws: int = DRAWS, seed: int = 0
) -> tuple[NextTest, ...]:
    """The absent modalities of one patient of `encoded`, the most informative per cost first; those
    that no training patient had together with what is present are left out.

    For each absent modality j the diffusion draws the latent under the view m' = m + {j}; every
    draw is one way in which the test may turn out, and has its posterior p_s. How far the p_s are from
    the present one is what there is to learn. All modalities j share the noise of draw s, so they are
    compared under equal luck, and the answer depends on the seed and this patient alone.
    """
    if not model.imagines:
        raise Refusal("rank_next_tests: the model forecasts nothing, expected one with a second stage")
    if draws < 2:
        raise Refusal(f"rank_next_tests: draws is {draws}, expected at least 2, better {DRAWS}")
    present = encoded.m[patient]  # [M]
    more = present | torch.eye(len(present), dtype=torch.bool, device=present.device)
    together = held_by(model.views, more).any(-1)
    absent = (~present & together).nonzero()[:, 0]
    if not len(absent):
        return ()
    more = more[absent]
    view = torch.cat([more, present[None]])  # [absent + 1, M]; the last asks for nothing more
    y = model.imagine(encoded.repeat(patient, len(view)), view=view, draws=draws, seed=seed)
    with torch.no_grad():
        p = model.probability(model.logits_from(y), present.sum()).double()  # [absent + 1, S, C]
    change, surer = (each.tolist() for each in spread(p, p[-1].mean(0), model.task.labels))
    names = [model.task.modality_names[j] for j in absent.tolist()]
    changes = [Change(*each) for each in zip(names, change, surer, strict=False)]
    return ranked(model.task, changes, usual_changes(model), floor=change[-1])


def spread(p: Tensor, now: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Posteriors p [..., S, C] of S draws and the present one [C] or [..., 1, C] -> the mean total variation
    distance between them, and the entropy of the draws' mean less their mean entropy, [...] each."""
    surer = labels.entropy(p.mean(-2)) - labels.entropy(p).mean(-1)
    return labels.distance(p, now).mean(-1), surer.clamp(min=0)


def usual_changes(model: RobustMDiff) -> dict[str, float]:
    """By modality, where it is known."""
    if model.second_stage is None:
        return {}
    noted = zip(model.task.modality_names, model.second_stage.change.tolist(), strict=True)
    return {name: change for name, change in noted if not math.isnan(change)}
