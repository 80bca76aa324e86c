"""Cross-modal attention over whatever each patient has."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustmdiff.ops import masked_attention
from robustmdiff.ops.masked_attention.segments import check_segments


class Memory(NamedTuple):
    """Keys and values [rows, heads, d / heads] of the tokens that are present, and their segments."""

    k: Tensor
    v: Tensor
    segments: Tensor


class MaskedCrossModalAttention(nn.Module):
    """Queries of one patient attend to the tokens of all modalities that the patient has.

        attend = MaskedCrossModalAttention(64, 4)
        out = attend(tokens, segments)                                # tokens read tokens
        out = attend(tokens, segments, queries, query_segments)       # summaries read tokens
        memory = attend.remember(tokens, segments)                    # the same for queries that come
        out = attend.recall(memory, queries, query_segments)          # again and again, as in a sampler

    d                 width; heads divides it.
    modalities        M, checked against the segments; needed for an affinity.
    affinity          learn a bias [heads, M, M] between query and key modality, 0 to begin with.
    exclude_own       modality i reads the others only (Mq = M).

    No residual, no norm. Tokens outside the segments are never projected: they may hold anything,
    NaN included, and neither the output nor the gradient of a weight changes.
    """

    def __init__(
        self,
        d: int,
        heads: int,
        *,
        modalities: int | None = None,
        affinity: bool = False,
        exclude_own: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or d % heads:
            raise ValueError(f"MaskedCrossModalAttention: heads is {heads}, expected a divisor of d = {d}")
        if affinity and modalities is None:
            raise ValueError("MaskedCrossModalAttention: modalities is None, expected a number for affinity")
        self.heads, self.d_k = heads, d // heads
        self.modalities = modalities
        self.exclude_own = exclude_own
        self.W_q = nn.Linear(d, d)
        self.W_k = nn.Linear(d, d)
        self.W_v = nn.Linear(d, d)
        self.W_o = nn.Linear(d, d, bias=False)  # W_v's bias reaches every row that reads anything
        self.affinity = (
            nn.Parameter(torch.zeros(heads, modalities, modalities))
            if affinity and modalities is not None
            else None
        )

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor,
        queries: Tensor | None = None,
        query_segments: Tensor | None = None,
    ) -> Tensor:
        """tokens [T, d], segments int32 [B, M, 2]; queries [Tq, d] with query_segments int32
        [B, Mq, 2], or neither: the tokens themselves -> [Tq, d].

        Rows that have nothing to read, or lie outside the segments, get 0.
        Errors as in robustmdiff.ops.masked_attention.
        """
        if (queries is None) != (query_segments is None):
            raise ValueError(
                "MaskedCrossModalAttention: queries and query_segments come together, got only "
                + ("query_segments" if queries is None else "queries")
            )
        self._check(segments)
        x, k_segments, rows = pack(tokens, segments)
        memory = self._project(x, k_segments)
        if queries is None or query_segments is None:
            return self._attend(memory, x, k_segments, rows, tokens.shape[0])
        return self.recall(memory, queries, query_segments)

    def remember(self, tokens: Tensor, segments: Tensor) -> Memory:
        """Keys and values of the tokens, for queries that come later, and more than once."""
        self._check(segments)
        x, k_segments, _ = pack(tokens, segments)
        return self._project(x, k_segments)

    def recall(self, memory: Memory, queries: Tensor, query_segments: Tensor) -> Tensor:
        """What `forward` gives for the remembered tokens."""
        return self._attend(memory, *pack(queries, query_segments), queries.shape[0])

    def _check(self, segments: Tensor) -> None:
        if self.modalities is not None and segments.shape[1] != self.modalities:
            raise ValueError(
                f"MaskedCrossModalAttention: segments has {segments.shape[1]} modalities, "
                f"expected {self.modalities}"
            )

    def _project(self, x: Tensor, segments: Tensor) -> Memory:
        return Memory(self._by_head(self.W_k(x)), self._by_head(self.W_v(x)), segments)

    def _by_head(self, x: Tensor) -> Tensor:
        """[rows, d] -> [rows, heads, d / heads]."""
        return x.view(x.shape[0], self.heads, self.d_k)

    def _attend(self, memory: Memory, x: Tensor, segments: Tensor, rows: Tensor | None, total: int) -> Tensor:
        q = self._by_head(self.W_q(x))
        out = masked_attention(
            q,
            memory.k,
            memory.v,
            segments,
            memory.segments,
            affinity=self.affinity,
            exclude_own=self.exclude_own,
        )
        out = self.W_o(out.flatten(1))
        if rows is None or rows.dtype == torch.bool:  # absent rows are 0 already
            return out
        return out.new_zeros(total, out.shape[1]).index_copy(0, rows, out)


def every_row(B: int, L: int, device: torch.device) -> Tensor:
    """Segments int32 [B, 1, 2] of a full [B, L, ...] viewed flat: B sequences, of which no row is absent."""
    start = torch.arange(B, dtype=torch.int32, device=device) * L
    return torch.stack([start, torch.full_like(start, L)], -1)[:, None]


def pack(x: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Only what the segments name: (rows of x [.., d], segments of these rows, which rows they are).

    On the CPU the present rows are taken out, rows int64. In a compiled graph, under torch.func or
    on a GPU, where their number cannot be known or not without waiting, the others are set to 0 in
    place of it, rows bool [T]: else they would reach the gradient of a weight. Where every row is present,
    or no gradient is recorded there, nothing is done and rows is None: no op reads them.
    """
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if segments.is_cpu and not traced:
        if segments.ndim != 3 or segments.dtype != torch.int32:
            return x, segments, None  # the op says what is wrong
        B, M, _ = segments.shape
        rows, packed = _present(segments.numpy().tobytes(), B, M, x.shape[0])
        return (x, segments, None) if rows is None else (x.index_select(0, rows), packed, rows)
    if not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
        return x, segments, None
    start, length = segments[..., 0].flatten().long(), segments[..., 1].flatten().long()
    edge = torch.zeros(x.shape[0] + 1, dtype=torch.int64, device=x.device)
    some = (length > 0).long()
    start = start * some  # an empty segment may start anywhere
    edge = edge.index_add(0, start, some).index_add(0, start + length, -some)
    present = edge.cumsum(0)[:-1] > 0
    return x.masked_fill(~present[:, None], 0), segments, present


@lru_cache(maxsize=16)
def _present(segments: bytes, B: int, M: int, T: int) -> tuple[Tensor | None, Tensor]:
    """The layers of a model share segments, so the last few answers are kept, found by value."""
    table = np.frombuffer(segments, np.int32).reshape(B, M, 2)
    check_segments("segments", table, T)
    start, length = table[..., 0].reshape(-1).astype(np.int64), table[..., 1].reshape(-1).astype(np.int64)
    total = int(length.sum())
    if total == T:
        return None, torch.empty(0)
    begin = np.cumsum(length) - length
    rows = np.arange(total) + np.repeat(start - begin, length)
    packed = np.stack([begin, length], -1).astype(np.int32).reshape(B, M, 2)
    return torch.from_numpy(rows), torch.from_numpy(packed)
