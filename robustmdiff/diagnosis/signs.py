"""What evidence is read for: the findings that a task labels or, where it labels none, its classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.labels import Labels
from robustmdiff.refusal import Refusal

BACKGROUND = 0.07  # P(finding | disease) where the table states nothing
TRUST = 0.85  # of a stated frequency: ontologies are curated by hand, from few case reports at times
SURE = 0.98  # P(sign | class) where the sign is the class itself; short of 1, so that no sign decides alone


@dataclass(frozen=True)
class Signs:
    """F signs, each a concept that every modality is asked about, and whose truth is known of some patients.

    names  as the task has them
    kind   of their concepts: "finding", or "disease" where the classes themselves are the signs
    """

    names: tuple[str, ...]
    kind: str

    @property
    def are_classes(self) -> bool:
        return self.kind == "disease"

    def rows(self, concepts: ConceptTable) -> Tensor:
        """Where they stand among the concepts, int64 [F]. Raises Refusal for one that is not there."""
        row = {concepts.name[i]: int(i) for i in concepts.indices(self.kind)}
        missing = [name for name in self.names if name not in row]
        if missing:
            what = "diseases" if self.are_classes else "findings"
            raise Refusal(
                f"RobustMDiff: concepts lack the {what} {missing}, expected one for each of the task's"
            )
        return torch.tensor([row[name] for name in self.names], dtype=torch.long)

    def prevalence(self, of_class: Tensor, given_class: Tensor) -> Tensor:
        """P(sign) [F], from P(class) [C] and P(sign | class), whose first C rows are the classes'."""
        if self.are_classes:
            return of_class
        return (of_class[:, None] * given_class[: len(of_class)]).sum(0) / of_class.sum()

    def truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Whether each holds, 0 or 1, and of whom that is known, bool; [B, F] both."""
        if self.are_classes:
            return batch.label, batch.label_known
        return batch.findings, batch.findings_known

    def given_class(self, task: Task, concepts: ConceptTable, labels: Labels) -> Tensor:
        """P(sign | class), [`labels.hypotheses`, F]: a class goes with itself, a finding as far as the
        concepts' table is believed."""
        if self.are_classes:
            itself = torch.eye(labels.hypotheses(len(task.classes)), len(self.names))
            return itself * SURE + (1 - itself) * (1 - SURE)
        return believed(class_frequencies(task, concepts, labels))


def signs_of(task: Task, *, classes: bool) -> Signs:
    """The task's findings; where it labels none its classes, if classes may be signs."""
    return (
        Signs(task.classes, "disease") if classes and not task.findings else Signs(task.findings, "finding")
    )


def class_frequencies(task: Task, concepts: ConceptTable, labels: Labels) -> Tensor:
    """P(finding | class) in the task's order, NaN where nothing is stated; [`labels.hypotheses`, F]."""
    diseases = {concepts.name[i]: n for n, i in enumerate(concepts.indices("disease"))}
    findings = {concepts.name[i]: n for n, i in enumerate(concepts.indices("finding"))}
    frequency = torch.full((labels.hypotheses(len(task.classes)), len(task.findings)), torch.nan)
    for c, name in enumerate(task.classes):
        for f, finding in enumerate(task.findings):
            if name in diseases:
                frequency[c, f] = float(concepts.frequency[diseases[name], findings[finding]])
    return frequency


def believed(frequency: Tensor) -> Tensor:
    """Stated frequencies [C, F], NaN where nothing is stated -> P(finding | class).

    Each is believed with probability TRUST and else worth what the finding's mean over diseases is worth, so
    that one wrong entry cannot rule a disease out.
    """
    mean = frequency.nanmean(0, keepdim=True).nan_to_num(BACKGROUND)
    stated = torch.where(frequency.isnan(), mean.clamp(max=BACKGROUND), frequency)
    return (TRUST * stated + (1 - TRUST) * mean).clamp(0.01, 0.98)
