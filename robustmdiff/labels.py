"""How the labels of a patient hang together: one of the classes holds, or each is its own yes or no.

`labels_of(task)` is where that is asked; whoever needs the answer asks the `Labels` it gives. Sizes: C
classes. Importing this imports no torch, as prediction sets go without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from robustmdiff.data.task import Task

RAREST = 1e-5  # and most frequent, less than 1: log odds stay finite


class Labels(Protocol):
    """exclusive  whether exactly one class holds, so that p [..., C] is a distribution over the classes.
    calibration   which calibration error is the one to report, by its name in `evaluation.metrics`.
    """

    exclusive: bool
    calibration: str

    def log_prior(self, prevalence: Sequence[float]) -> Tensor:
        """float32 [C]: the logits that `probability` takes to the prevalence."""

    def probability(self, logits: Tensor) -> Tensor:
        """p(y | logits), [..., C] both."""

    def loss(self, logits: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Tensor:
        """Cross entropy of each patient, cell by cell times `weight`: logits, label (0 or 1), known (bool)
        and weight [..., C] -> [...].

        What is not known counts 0, and makes nothing else count more. So with weights of 1 this is, up to a
        constant, minus the log likelihood of what is known, and the mean over a batch is the sum of those of
        its parts.
        """

    def counted(self, label: Tensor, known: Tensor) -> Tensor:
        """Which cells `loss` reads, bool [..., C]."""

    def likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        """How probable a cell is as `label` has it, to be read where `counted`: without the rounding that
        1 - p has. [..., C] both."""

    def surprise(self, p: Tensor, label: Tensor, known: Tensor) -> Tensor:
        """-log p of everything that is known to be so, end to end: p, label and known [n, C] -> [k]."""

    def entropy(self, p: Tensor) -> Tensor:
        """Nats, [..., C] -> [...]; several labels: the sum over the classes."""

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        """Total variation, 0 to 1, [..., C] -> [...]; several labels: the mean over the classes."""

    def hypotheses(self, C: int) -> int:
        """How many states of a patient a table of likelihoods has rows for."""

    def contrast(self, log_likelihood: Tensor) -> Tensor:
        """log likelihood of each hypothesis [..., hypotheses] -> what speaks for each class [..., C]."""


class Exclusive:
    """One class holds."""

    exclusive = True
    calibration = "ece"

    def log_prior(self, prevalence: Sequence[float]) -> Tensor:
        return _bounded(prevalence).log()

    def probability(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def loss(self, logits: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Tensor:
        return -(weight * label * logits.log_softmax(-1)).sum(-1) * known.all(-1)

    def counted(self, label: Tensor, known: Tensor) -> Tensor:
        return (label > 0.5) & known.all(-1, keepdim=True)

    def likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        return logits.softmax(-1)

    def surprise(self, p: Tensor, label: Tensor, known: Tensor) -> Tensor:
        return -p[(label > 0.5) & known].log()

    def entropy(self, p: Tensor) -> Tensor:
        return _nats(p).sum(-1)

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        return (p - q).abs().sum(-1) / 2

    def hypotheses(self, C: int) -> int:
        return C

    def contrast(self, log_likelihood: Tensor) -> Tensor:
        return log_likelihood


class Independent:
    """Each class is its own yes or no."""

    exclusive = False
    calibration = "ece/classwise"

    def log_prior(self, prevalence: Sequence[float]) -> Tensor:
        return _bounded(prevalence).logit()

    def probability(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def loss(self, logits: Tensor, label: Tensor, known: Tensor, weight: Tensor) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        each = binary_cross_entropy_with_logits(logits, label.expand_as(logits), reduction="none")
        return (each * weight * known).mean(-1)

    def counted(self, label: Tensor, known: Tensor) -> Tensor:
        return known

    def likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        return (logits * (2 * label - 1)).sigmoid()

    def surprise(self, p: Tensor, label: Tensor, known: Tensor) -> Tensor:
        return -(p * label + (1 - p) * (1 - label))[known].log()

    def entropy(self, p: Tensor) -> Tensor:
        return (_nats(p) + _nats(1 - p)).sum(-1)

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        return (p - q).abs().mean(-1)

    def hypotheses(self, C: int) -> int:
        """The last is the background: what findings a patient has without the class."""
        return C + 1

    def contrast(self, log_likelihood: Tensor) -> Tensor:
        return log_likelihood[..., :-1] - log_likelihood[..., -1:]


def labels_of(task: Task) -> Labels:
    return Independent() if task.multilabel else Exclusive()


def _bounded(prevalence: Sequence[float]) -> Tensor:
    import torch

    return torch.tensor(prevalence, dtype=torch.float32).clamp(RAREST, 1 - RAREST)


def _nats(p: Tensor) -> Tensor:
    return -p.xlogy(p)
