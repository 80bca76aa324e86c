"""Forecasts of the fuller view: what a model's latent will be once more of a patient is seen.

A forecast knows no encoder and no patient. It learns from latents of a model that no longer changes
(`Pairs`), and is asked with the latents of new patients (`Seen`). Sizes: n patients under a view each, M
modalities, D numbers of the latent y, F findings, C classes, S draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

EVIDENCE_LIMIT = 8.0  # nats; beyond it a finding is as good as seen, and the head's answer no longer moves
EVIDENCE_UNIT = 4.0  # nats per unit of the latent, so that both of its parts have a similar scale


def total_evidence(evidence: Tensor) -> Tensor:
    """lambda(m) [..., F], nats: the evidence of the modalities [..., M, F], 0 where they are not visible,
    summed and bounded smoothly. The first F numbers of y are lambda / EVIDENCE_UNIT."""
    return EVIDENCE_LIMIT * torch.tanh(evidence.sum(-2) / EVIDENCE_LIMIT)


class Seen(NamedTuple):
    """What is known of n patients, each under one view.

    y         [n, D], the latent of what is visible.
    m         bool [n, M], what is visible.
    evidence  [n, M, F] nats, what each modality says of each finding; 0 where it is not visible.
    p         [n, C], the diagnosis from what is visible.
    """

    y: Tensor
    m: Tensor
    evidence: Tensor
    p: Tensor

    def take(self, rows: Tensor) -> Self:
        """The rows that an index int64 or a mask bool names."""
        return type(self)(*(x[rows] for x in self))


class Pairs(NamedTuple):
    """What a forecast learns from: patients under a view, and the same patients under a fuller one.

    view      bool [n, M], the fuller view; holds `seen.m`.
    y         [n, D], the latent under it.
    evidence  [n, M, F], the evidence under it.
    label     [n, C], 0 or 1, and known bool [n, C].
    patient   int64 [n], whose row it is: a patient has several.
    watching  bool [n], whether the patient took no part in what was trained before: then neither here. Those
              who watch choose weights, and tell how sure to be of someone new.
    """

    seen: Seen
    view: Tensor
    y: Tensor
    evidence: Tensor
    label: Tensor
    known: Tensor
    patient: Tensor
    watching: Tensor

    def take(self, rows: Tensor) -> Self:
        return type(self)(self.seen.take(rows), *(x[rows] for x in self[1:]))

    @classmethod
    def join(cls, parts: Sequence[Pairs]) -> Self:
        """The rows of all, one part after the other."""
        seen = Seen(*(torch.cat(x) for x in zip(*(part.seen for part in parts), strict=True)))
        return cls(seen, *(torch.cat(x) for x in list(zip(*parts, strict=True))[1:]))


class Forecast(nn.Module, ABC):
    """The distribution of the latent under a fuller view, given the view there is. What it learned is in
    its buffers and parameters, and is saved with them."""

    @abstractmethod
    def fit(self, pairs: Pairs, key: Tensor) -> None:
        """Learn from these; `key` int64 [2] (see `ops.philox_key`) is all its randomness."""

    @abstractmethod
    def sample(self, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        """Draws of the latent under `view` bool [n, M], which holds seen.m -> [n, S, D]. A patient's draws
        depend on that patient, the view and the key, not on the others of `seen`."""

    @torch.no_grad()
    def draw(self, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        """`sample`; where the view adds nothing to what is seen, every draw is seen.y."""
        return where_new(self.sample(seen, view, draws, key), seen, view)


def where_new(y: Tensor, seen: Seen, view: Tensor) -> Tensor:
    """Draws y [n, S, D]; seen.y where the view adds nothing to what is seen."""
    nothing_new = (view == seen.m).all(1)[:, None, None]
    return torch.where(nothing_new, seen.y[:, None], y)
