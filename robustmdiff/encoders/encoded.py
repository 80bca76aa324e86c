"""What the encoders hand on: patients as tokens and summaries of what is visible."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Encoded(NamedTuple):
    """What the encoders made of a batch. They run once; masks only shorten segments.

    tokens    [T, d]       the tokens of everything present, on one flat axis
    segments  [B, M, 2]    int32 (start, length) of each modality's tokens; length 0 = absent
    H         [B, M, d]    one summary per modality (H_i of the paper); what stands in the row
                           of an absent modality is never read
    evidence  [B, M, F]    log-likelihood ratios of the findings, likewise; None before a model
                           that knows findings has added them
    K         [k, d]       the concepts as this pass embedded them; None in a model without
    x         [B, D]       the latent x(m) of what is visible; None before a model has added it
    """

    tokens: Tensor
    segments: Tensor
    H: Tensor
    evidence: Tensor | None = None
    K: Tensor | None = None
    x: Tensor | None = None

    @property
    def m(self) -> Tensor:
        """What is visible, bool [B, M]."""
        return self.segments[..., 1] > 0

    def keep(self, mask: Tensor) -> Encoded:
        """Hide every modality where `mask`, bool [B, M], is False."""
        if mask.shape != self.segments.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"keep: mask is {mask.dtype} {list(mask.shape)}, expected bool "
                f"{list(self.segments.shape[:2])}"
            )
        start, length = self.segments.unbind(-1)
        return self._replace(segments=torch.stack([start, length * mask], dim=-1), x=None)

    def repeat(self, patient: int, times: int) -> Encoded:
        """One patient `times` over, as a batch of its own (no two segments may share tokens). What
        `keep` has hidden is left behind."""
        start, length = self.segments[patient].unbind(-1)
        spans = zip(start.tolist(), length.tolist(), strict=True)
        rows = torch.cat([torch.arange(s, s + n, device=start.device) for s, n in spans])
        copy = torch.arange(times, device=start.device)[:, None] * len(rows)
        first = length.cumsum(0) - length + copy  # [times, M]
        return Encoded(
            self.tokens[rows].repeat(times, 1),
            torch.stack([first, length.expand_as(first)], dim=-1).to(torch.int32),
            self.H[patient].expand(times, -1, -1),
            None if self.evidence is None else self.evidence[patient].expand(times, -1, -1),
            self.K,
        )
