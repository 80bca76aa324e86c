"""Which modality to obtain next, whoever computed it: a model, or an engine that was made of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from robustmdiff.data.task import Task

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


class Change(NamedTuple):
    """What seeing one modality is expected to do: expected_change and entropy_reduction of a NextTest."""

    modality: str
    expected: float
    surer: float


def ranked(
    task: Task, changes: Iterable[Change], usual: Mapping[str, float], floor: float = 0.0
) -> tuple[NextTest, ...]:
    """The largest gain for its cost first; usual changes by modality, where they are known."""
    cost = {modality.name: modality.cost for modality in task.modalities}
    tests = []
    for name, expected, surer in changes:
        gain = max(expected - floor, 0.0)
        value = gain / cost[name]
        tests.append(NextTest(name, expected, surer, floor, gain, cost[name], value, usual.get(name)))
    return tuple(sorted(tests, key=lambda test: (-test.value, -test.expected_change / test.cost)))
