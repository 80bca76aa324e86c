"""What a flow is told: prompts of several modalities as one vector, and prompts that say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot


class PromptMixing(nn.Module):
    """c = sum_m w_m h_m, w = softmax(g) over the prompts that are there: g, learned, is how much each
    modality counts (MedM2G's adaptive guidance; CoDi, Tang et al. 2023, section 3.2, with equal weights).

    kinds  of the M modalities, in the task's order. Each kind has a learned null prompt, which stands for a
           prompt that is dropped, so that nothing asked in a text is something else than nothing asked by an
           image, or by both (MedCoDi-M, Molino et al. 2025).
    d      numbers of a prompt
    """

    kind: Tensor

    def __init__(self, kinds: Sequence[str], d: int) -> None:
        super().__init__()
        distinct = sorted(set(kinds))
        self.g = nn.Parameter(torch.zeros(len(kinds)))
        self.null = nn.Parameter(torch.randn(len(distinct), d) / d**0.5)
        self.nothing = nn.Parameter(torch.zeros(d))  # where no prompt is there
        self.register_buffer("kind", torch.tensor([distinct.index(k) for k in kinds]), persistent=False)

    def forward(self, h: Tensor, m: Tensor, dropped: Tensor | None = None) -> Tensor:
        """h [n, M, d], m bool [n, M]; dropped bool [n], whose prompts are null -> c [n, d], times sqrt(d):
        numbers of about unit size."""
        if dropped is not None:
            h = torch.where(dropped[:, None, None], self.null[self.kind], h)
        h = torch.where(m[..., None], h, 0)
        w = self.g.expand_as(m).masked_fill(~m, -torch.inf).softmax(dim=1)
        mixed = torch.where(m.any(1, keepdim=True), (w.nan_to_num()[..., None] * h).sum(1), self.nothing)
        return h.shape[2] ** 0.5 * mixed


def draw_prompts(m: Tensor, u: Tensor) -> Tensor:
    """MedCoDi-M's multi-prompt training: of two prompts, taken at random of those that are there, the first,
    the second or both, a third of the time each; the only one where there is one.

    m bool [n, M]; u uniform [n, M + 1] -> bool [n, M], those a flow is told.
    """
    M = m.shape[1]
    order = u[:, :M].masked_fill(~m, -1).argsort(dim=1, descending=True)
    first, second = (one_hot(order[:, i], M).bool() & m for i in (0, min(1, M - 1)))
    third = u[:, M:]
    told = torch.where(third < 1 / 3, first, torch.where(third < 2 / 3, second, first | second))
    return torch.where(second.any(1, keepdim=True), told, first)
