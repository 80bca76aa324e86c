"""How the labels of a patient hang together: one of the classes holds, or each is its own yes or no.

`labels_of` is where that is asked; whoever needs the answer asks the `Labels` it gives, which a task has
(`Task.labels`) and a model (`DiagnosisModel.labels`). Sizes: n patients, C classes. Data, metrics and
prediction sets ask with arrays, models with tensors: importing this imports no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from robustmdiff.ranking import Array, Bools

RAREST = 1e-5  # and most frequent, less than 1: log odds stay finite


class Claims(NamedTuple):
    """What was claimed of patients and can be checked, [k] each: of which of them, how surely, and whether it
    is so."""

    row: NDArray[np.int64]
    stated: Array
    right: Bools


class Labels(Protocol):
    """exclusive  whether exactly one class holds, so that p [..., C] is a distribution over the classes.
    calibration   which calibration error is the one to report, by its name in `evaluation.metrics`.
    """

    exclusive: bool
    calibration: str

    # Arrays: label bool [n, C], counting only where known bool [n, C]

    def impossible(self, label: Bools, known: Bools) -> Bools:
        """Whose labels cannot all be so, [n]: of one label, several that hold or none that does."""

    def implied(self, label: Bools, known: Bools) -> Bools:
        """What is known because of the labels that are, [n, C]: the class that holds excludes the others."""

    def prevalence(self, holds: Sequence[int], known: Sequence[int]) -> tuple[float, ...]:
        """The share of each class, from how many have it and of how many it is known, [C] both; one is added
        to the count of each answer, so that a class that nobody has keeps a chance (Laplace)."""

    def diagnosed(self, label: Bools, known: Bools) -> Bools:
        """Whether enough is known of a patient for an answer to be right or wrong, [n]."""

    def claims(self, p: Array, label: Bools, known: Bools) -> Claims:
        """One label: the most probable class of each who is `diagnosed`; several: every known cell."""

    def prediction_sets(self, p: Array, quantile: Array) -> Bools:
        """The classes whose score 1 - p is at most the quantile, [n, C] each; of one label the most probable
        class in any case, as one of them holds."""

    # Tensors

    def log_prior(self, prevalence: Sequence[float]) -> Tensor:
        """float32 [C]: the logits that `probability` takes to the prevalence."""

    def probability(self, logits: Tensor) -> Tensor:
        """p(y | logits), [..., C] both."""

    def averaged(self, logits: Tensor) -> Tensor:
        """The logits [...] whose `probability` is the mean of that of the logits [S, ...]."""

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

    def choices(self, C: int) -> int:
        """How many uniform numbers decide which of C classes hold."""

    def drawn(self, p: Tensor, u: Tensor) -> Tensor:
        """Which classes hold, 0 or 1, as uniform u float64 [choices, S] decides: p [n, C] -> [n, S, C]."""


class Exclusive:
    """One class holds."""

    exclusive = True
    calibration = "ece"

    def impossible(self, label: Bools, known: Bools) -> Bools:
        holding = (label & known).sum(1)
        return (holding > 1) | (known.all(1) & (holding == 0))

    def implied(self, label: Bools, known: Bools) -> Bools:
        return known | ((label & known).sum(1) > 0)[:, None]

    def prevalence(self, holds: Sequence[int], known: Sequence[int]) -> tuple[float, ...]:
        return tuple((h + 1) / (sum(holds) + len(holds)) for h in holds)

    def diagnosed(self, label: Bools, known: Bools) -> Bools:
        return (label & known).sum(-1) == 1

    def claims(self, p: Array, label: Bools, known: Bools) -> Claims:
        row = np.flatnonzero(self.diagnosed(label, known))
        return Claims(row, p[row].max(-1), label[row, p[row].argmax(-1)])

    def prediction_sets(self, p: Array, quantile: Array) -> Bools:
        sets = 1 - p <= quantile
        sets[np.arange(len(p)), p.argmax(1)] = True
        return sets

    def log_prior(self, prevalence: Sequence[float]) -> Tensor:
        return _bounded(prevalence).log()

    def probability(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def averaged(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))

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

    def choices(self, C: int) -> int:
        return 1

    def drawn(self, p: Tensor, u: Tensor) -> Tensor:
        from torch.nn.functional import one_hot

        below = p.to(u.dtype).cumsum(-1)[:, None, :-1]  # [n, 1, C - 1]
        return one_hot((u[0][:, None] >= below).sum(-1), p.shape[1]).to(p.dtype)


class Independent:
    """Each class is its own yes or no."""

    exclusive = False
    calibration = "ece/classwise"

    def impossible(self, label: Bools, known: Bools) -> Bools:
        return np.zeros(len(label), dtype=bool)

    def implied(self, label: Bools, known: Bools) -> Bools:
        return known

    def prevalence(self, holds: Sequence[int], known: Sequence[int]) -> tuple[float, ...]:
        return tuple((h + 1) / (k + 2) for h, k in zip(holds, known, strict=True))

    def diagnosed(self, label: Bools, known: Bools) -> Bools:
        return known.sum(-1) > 0

    def claims(self, p: Array, label: Bools, known: Bools) -> Claims:
        return Claims(np.nonzero(known)[0], p[known], label[known])

    def prediction_sets(self, p: Array, quantile: Array) -> Bools:
        return 1 - p <= quantile

    def log_prior(self, prevalence: Sequence[float]) -> Tensor:
        return _bounded(prevalence).logit()

    def probability(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def averaged(self, logits: Tensor) -> Tensor:
        from torch.nn.functional import logsigmoid

        return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)

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

    def choices(self, C: int) -> int:
        return C

    def drawn(self, p: Tensor, u: Tensor) -> Tensor:
        return (p[:, None] > u.T).to(p.dtype)


EXCLUSIVE, INDEPENDENT = Exclusive(), Independent()


def labels_of(multilabel: bool) -> Labels:
    return INDEPENDENT if multilabel else EXCLUSIVE


def _bounded(prevalence: Sequence[float]) -> Tensor:
    import torch

    return torch.tensor(prevalence, dtype=torch.float32).clamp(RAREST, 1 - RAREST)


def _nats(p: Tensor) -> Tensor:
    return -p.xlogy(p)
