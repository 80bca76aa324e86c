"""The masking curriculum: what the student sees of a patient, harder from epoch to epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustmdiff.data.task import Task
from robustmdiff.refusal import Refusal


@dataclass(frozen=True)
class MaskingCurriculum:
    """Hides present modalities at random; never shows an absent one.

    The rate of the paper, for modality i in epoch e,

        p_mask(i, e) = scale_i (p_min + (p_max - p_min) min(1, e / (e_total r))),    at most 1,

    with progress = e / e_total in [0, 1]. Each patient meets one of four cases:

    - with probability p_nothing everything is hidden, so that the learned prior is trained;
    - with probability p_structured min(1, progress / r) a structured drop, its kind uniform over
      keep one modality, drop one, drop every image, and keep what costs at most as much as a
      modality of the patient chosen at random (a work-up stopped early);
    - otherwise independent drops at the rate p_mask. With spread, each patient has a rate of its
      own, uniform between p_min and p_mask, so that full views are not forgotten once p_mask has
      reached p_max; without it, every patient has the rate p_mask.

    Structured and independent drops leave at least one modality, chosen uniformly when they
    would leave none: nothing at all has exactly the probability p_nothing.
    """

    task: Task
    p_min: float = 0.1
    p_max: float = 0.9
    r: float = 0.5
    p_structured: float = 0.3
    p_nothing: float = 0.05
    spread: bool = True
    scale: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.scale) - set(self.task.modality_names))
        if unknown:
            raise Refusal(
                f"MaskingCurriculum: scale names {unknown[0]!r}, expected one of "
                f"{', '.join(self.task.modality_names)}"
            )

    def ramp(self, progress: float) -> float:
        """min(1, e / (e_total r)); r = 0 starts at full strength."""
        return min(1.0, progress / self.r) if self.r > 0 else 1.0

    def p_mask(self, progress: float) -> Tensor:
        """p_mask(i, e), float32 [M]: the drop rate of each modality at this progress."""
        p = self.p_min + (self.p_max - self.p_min) * self.ramp(progress)
        return (p * self._scales()).clamp(max=1.0)

    def draw(self, presence: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """bool [B, M] of what is kept, True only where presence [B, M] is.

        A pure function of its arguments; a patient's row uses only that row of the numbers drawn,
        and how many are drawn depends on B and M alone.
        """
        B, M = presence.shape
        u = torch.rand(B, 2 * M + 4, generator=generator)
        u_drop, u_order, u_case, u_kind, u_rate, u_cost = u.split([M, M, 1, 1, 1, 1], dim=1)

        order = u_order.masked_fill(~presence, 2.0).argsort(dim=1)  # present ones first, shuffled
        first = torch.zeros_like(presence).scatter_(1, order[:, :1], True) & presence  # one present modality

        if self.spread:
            low = (self.p_min * self._scales()).clamp(max=1.0)
            p = low + u_rate * (self.p_mask(progress) - low)  # [B, M]
        else:
            p = self.p_mask(progress)
        independent = u_drop >= p

        cost = torch.tensor([m.cost for m in self.task.modalities])
        image = torch.tensor([m.kind == "image" for m in self.task.modalities])
        count = presence.sum(dim=1, keepdim=True)
        pick = (u_cost * count).long().clamp(max=M - 1)
        limit = cost[order.gather(1, pick)]  # [B, 1], the cost of a random present modality
        kinds = torch.stack([first, ~first, ~image.expand(B, M), cost <= limit])  # [4, B, M]
        kind = (u_kind.squeeze(1) * len(kinds)).long().clamp(max=len(kinds) - 1)
        structured = kinds[kind, torch.arange(B)]

        p_structured = self.p_structured * self.ramp(progress) * (1 - self.p_nothing)
        kept = torch.where(u_case < self.p_nothing + p_structured, structured, independent) & presence
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, first)
        return kept & (u_case >= self.p_nothing)

    def _scales(self) -> Tensor:
        return torch.tensor([self.scale.get(name, 1.0) for name in self.task.modality_names])
