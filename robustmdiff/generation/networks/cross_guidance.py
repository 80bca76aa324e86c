"""How a flow reads the others: a cross-attention sub-layer behind a block of its network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from robustmdiff.nn import MaskedCrossModalAttention
from robustmdiff.nn.masked_attention import every_row

HEADS = 4


class CrossGuidance(nn.Module):
    """What a hidden state takes from the environment vectors of the other flows.

    width  of the hidden state, a multiple of 4
    k      numbers of an environment vector

    Softmax over one key is 1, so that with one other flow attention is W_o W_v v at every position: it is
    added as such. Among several the hidden state chooses, by `MaskedCrossModalAttention`.
    """

    def __init__(self, width: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.enter = nn.Linear(k, width)
        self.attend = MaskedCrossModalAttention(width, HEADS)

    def forward(self, h: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """h [n, width] or [n, width, rows, columns]; unit vectors v [n, others, k] of one other flow or more,
        and seen bool [n, others], whether it may be read -> what is added to h, of its shape; 0 where nothing
        is read."""
        tokens = self.enter(self.k**0.5 * v)  # numbers of about unit size
        if v.shape[1] == 1:
            return self._of_one(tokens[:, 0], seen).view(*h.shape[:2], *[1] * (h.dim() - 2)).expand_as(h)
        return self._of_several(h, tokens, seen)

    def _of_one(self, token: Tensor, seen: Tensor) -> Tensor:
        """token [n, width], seen [n, 1] -> [n, width]."""
        return self.attend.W_o(self.attend.W_v(token)).masked_fill(~seen, 0)

    def _of_several(self, h: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        n, others = seen.shape
        rows = h.flatten(2).mT if h.dim() > 2 else h[:, None]  # [n, positions, width]
        first = torch.arange(n * others, dtype=torch.int32, device=h.device).view(n, others)
        read = self.attend(
            tokens.flatten(0, 1),
            torch.stack([first, seen.int()], dim=-1),
            layer_norm(rows, rows.shape[-1:]).flatten(0, 1),
            every_row(n, rows.shape[1], h.device),
        )
        return read.view_as(rows).mT.reshape(h.shape)
