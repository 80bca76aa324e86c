"""What is said of a patient, whoever computed it: a model, or an engine that was made of one. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from robustmdiff.data.task import Task
from robustmdiff.ranking import Array, Bools

INTERVAL = (0.05, 0.95)  # of the draws


@dataclass(frozen=True)
class Answer:
    """What is to be said of one patient.

    probability   of each class
    interval      5 % and 95 % of the draws: what the missing modalities could still change; empty where none
                  were made
    answer        whose the probability is: of the "draws" the mean, or of a head ("head") that makes none
    prediction    the classes that cannot be ruled out, likeliest first: the right one is among them in 9 of
                  10 patients
    findings      the probability of each finding, where the model knows findings
    unlike_training  whether the patient is unlike those that the model was trained on; None where it was
                  not asked to know
    missing       the modalities that the patient lacks
    nothing_known  whether that is all of them: the probability is the task's prevalence
    """

    patient: str
    probability: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    prediction: tuple[str, ...]
    findings: Mapping[str, float]
    unlike_training: bool | None
    missing: tuple[str, ...]
    answer: str
    nothing_known: bool = False


class Computed(NamedTuple):
    """What was computed of B patients, C classes and F findings.

    probability      [B, C]
    in_set           bool [B, C]
    unlike_training  bool [B]; None where nothing was asked
    findings         [B, F]; None of a model that knows none
    interval         its ends, [B, C] each; None where no draws were made
    """

    probability: Array
    in_set: Bools
    unlike_training: Bools | None = None
    findings: Array | None = None
    interval: tuple[Array, Array] | None = None


def answers(
    task: Task, patients: Sequence[str], presence: Bools, said: Computed, answer: str
) -> list[Answer]:
    """In words: the ids of B patients, what they have, bool [B, M], what was computed of them, and whose
    answer it is."""
    found = []
    for b, patient in enumerate(patients):
        p = dict(zip(task.classes, said.probability[b].tolist(), strict=True))
        kept = [name for name, held in zip(task.classes, said.in_set[b].tolist(), strict=True) if held]
        ends = [] if said.interval is None else zip(*(end[b].tolist() for end in said.interval), strict=True)
        known = bool(presence[b].any())
        findings = [] if said.findings is None or not known else said.findings[b].tolist()
        have = zip(task.modality_names, presence[b].tolist(), strict=True)
        found.append(
            Answer(
                patient=patient,
                probability=p,
                interval=dict(zip(task.classes, ends, strict=False)),
                prediction=tuple(sorted(kept, key=lambda name: -p[name])),
                findings=dict(zip(task.findings, findings, strict=False)),
                unlike_training=None if said.unlike_training is None else bool(said.unlike_training[b]),
                missing=tuple(name for name, has in have if not has),
                answer=answer,
                nothing_known=not known,
            )
        )
    return found
