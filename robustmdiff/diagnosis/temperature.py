"""How sure to be: p = softmax(logits / T_k - a_k log w), with k modalities visible.

A model learns from weights that lift the logits of rare classes by log w. Its training patients it comes to
know by heart: then it is too sure of others, and lifted by less. So T_k (temperature scaling, Guo et al.
2017) and a_k, the share of log w that is taken off, are fitted on patients whom training has not seen.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from robustmdiff.labels import Labels

ENOUGH = 50  # people with k modalities visible, for a T_k and an a_k of their own
FEW = 8  # people in all: of fewer nothing is fitted (docs/concepts.md)
FOLDS = 5  # parts of the people, for probabilities that somebody else's numbers gave
LEAST = 1e-300  # a probability whose log is finite


class Said(NamedTuple):
    """What a model said, as it was trained, of n rows: patients, under subsets of what they have.

    logits        float64 [n, C], or [S, n, C] of S draws, whose mean is the answer
    visible       int64 [n], how many modalities it saw
    label, known  [n, C]
    person        int64 [n], whose row it is
    weight        float64 [n], how much it counts in the population, where some are asked more often
    """

    logits: Tensor
    visible: Tensor
    label: Tensor
    known: Tensor
    person: Tensor
    weight: Tensor

    def where(self, rows: Tensor) -> Self:
        """rows bool [n]."""
        return type(self)(self.logits[..., rows, :], *(each[rows] for each in self[1:]))

    @property
    def people(self) -> int:
        return len(self.person.unique())


class Temperature(NamedTuple):
    """T_k and a_k, float64 [M + 1]."""

    T: Tensor
    a: Tensor

    def probability(self, said: Said, labels: Labels, log_weight: Tensor) -> Tensor:
        """The answers [n, C], float64."""
        p = labels.probability(corrected(said.logits, self.T[said.visible], self.a[said.visible], log_weight))
        return p.mean(0) if p.dim() == 3 else p

    def log_loss(self, said: Said, labels: Labels, log_weight: Tensor) -> float:
        """-log p of what is known to be so, the weighted mean."""
        return float(_log_loss(said, self.T[said.visible], self.a[said.visible], labels, log_weight))


def corrected(logits: Tensor, T: Tensor, a: Tensor, log_weight: Tensor) -> Tensor:
    """logits / T - a log w, [..., n, C] with T and a [n] or []."""
    return logits / T[..., None] - a[..., None] * log_weight


def fit_temperature(said: Said, modalities: int, labels: Labels, log_weight: Tensor) -> Temperature:
    """The numbers of least log loss, for each number k of modalities that ENOUGH people have visible; for the
    others those of everybody, and T = a = 1 of fewer than FEW people. Without class weights a stays 1.

    One person more, so to say, votes for T = a = 1 (for a k: for everybody's numbers) with a loss of
    ((log T)^2 + (a - 1)^2) / 2, so that patients told apart without error do not ask for T = 0. The log loss
    of all rows is never more than with T = a = 1. Deterministic.
    """
    said = said.where(said.known.any(-1) & (said.visible > 0))
    found = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(modalities + 1, 1)  # log T, a
    if said.people >= FEW:
        found[:] = _least(said, found[0], labels, log_weight)
        for k in range(1, modalities + 1):
            rows = said.where(said.visible == k)
            if rows.people >= ENOUGH:
                found[k] = _least(rows, found[0], labels, log_weight)
    return Temperature(found[:, 0].exp(), found[:, 1])


def held_out(said: Said, modalities: int, labels: Labels, log_weight: Tensor) -> Tensor:
    """The answers [n, C], each with the numbers that the people of the other FOLDS - 1 parts give."""
    fold = said.person % FOLDS
    p = torch.empty(said.label.shape, dtype=torch.float64)
    for part in range(FOLDS):
        rest = fit_temperature(said.where(fold != part), modalities, labels, log_weight)
        p[fold == part] = rest.probability(said.where(fold == part), labels, log_weight)
    return p


def _least(said: Said, start: Tensor, labels: Labels, log_weight: Tensor) -> Tensor:
    """(log T, a) of these rows, float64 [2], from `start`, which they are drawn to."""
    point, people = start.clone().requires_grad_(), said.people
    optimiser = torch.optim.LBFGS([point], max_iter=50, line_search_fn="strong_wolfe")

    def loss(at: Tensor) -> Tensor:
        log_T, a = at
        drawn_to = (at - start).square().sum() / 2
        return _log_loss(said, log_T.exp(), a, labels, log_weight) + drawn_to / people

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss(point)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(step)
    found = point.detach()
    return found if loss(found) <= loss(start) else start


def _log_loss(said: Said, T: Tensor, a: Tensor, labels: Labels, log_weight: Tensor) -> Tensor:
    cells = labels.counted(said.label, said.known)
    p = labels.likelihood(corrected(said.logits, T, a, log_weight), said.label)[..., cells]
    if p.dim() == 2:
        p = p.mean(0)
    weight = said.weight[:, None].expand_as(cells)[cells]
    return -(weight * p.clamp(min=LEAST).log()).sum() / weight.sum()
