"""Which absent modality to obtain next: how far would seeing it be expected to move the diagnosis?

A generative model draws what the modality may show, and the expected effect of that ranks the modalities,
as in EDDI (Ma et al. 2019), which goes by the Kullback-Leibler divergence. Here the effect is a distance in
units of probability, beside the information that the outcome gives about the class (Lindley 1956).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustmdiff.diagnosis.views import held_by
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.labels import Labels
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.diagnosis.model import RobustMDiff

DRAWS = 64  # from which on an answer is steady
NOTICEABLE = 0.01  # of probability; about one standard deviation of a small gain over 64 draws


@dataclass(frozen=True)
class NextTest:
    """What seeing one modality that the patient lacks is expected to do.

    modality           its name.
    expected_change    probability, 0 to 1: the mean total variation distance between the posteriors that
                       seeing it may lead to and the present one. 0.05 says that on average five percentage
                       points go to other classes; multilabel: the mean of the classes' changes.
    entropy_reduction  nats by which the posterior is expected to get surer (multilabel: summed
                       over the classes), the mutual information of the outcome and the class (Lindley 1956),
                       H(mean p_s) - mean H(p_s) over the draws (Houlsby et al. 2011).
    floor              probability: expected_change where nothing is added, how far the draws scatter by
                       themselves. 0 of a second stage; a change that does not exceed it says nothing about
                       the modality. The same for all of a patient's tests.
    gain               probability: expected_change - floor, at least 0.
    cost               of the modality, as the task states it.
    value              gain / cost; what the ranking goes by.
    usual_change       probability: how far seeing it moved the diagnosis of training patients, on average.
                       What a fixed order of tests goes by; None of a model that has not noted it.
    """

    modality: str
    expected_change: float
    entropy_reduction: float
    floor: float
    gain: float
    cost: float
    value: float
    usual_change: float | None = None

    @property
    def noticeable(self) -> bool:
        """Whether the gain is at least one percentage point. Where none of a patient's tests is, no test
        would change the diagnosis, as far as this model can tell."""
        return self.gain >= NOTICEABLE


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
    usual = {} if model.second_stage is None else known(model.second_stage.change)
    floor = change[-1]
    tests = []
    for j, c, h in zip(absent.tolist(), change, surer, strict=False):
        name, cost = model.task.modality_names[j], model.task.modalities[j].cost
        gain = max(c - floor, 0.0)
        tests.append(NextTest(name, c, h, floor, gain, cost, gain / cost, usual.get(j)))
    return tuple(sorted(tests, key=lambda test: (-test.value, -test.expected_change / test.cost)))


def spread(p: Tensor, now: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Posteriors p [..., S, C] of S draws and the present one [C] -> the mean total variation distance
    between them, and the entropy of the draws' mean less their mean entropy, [...] each."""
    surer = labels.entropy(p.mean(-2)) - labels.entropy(p).mean(-1)
    return labels.distance(p, now).mean(-1), surer.clamp(min=0)


def known(change: Tensor) -> dict[int, float]:
    """By modality; NaN is not known."""
    return {j: c for j, c in enumerate(change.tolist()) if c == c}
