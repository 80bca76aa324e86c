"""Other libraries' descriptions of a batch, as segments.

q_segments, k_segments = segments_from_block_diagonal(mask)   # xformers
segments = segments_from_nested(x)                            # torch.nested, with x.values()
segments = segments_from_key_padding(key_padding_mask)        # padded tensors, viewed flat
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# By name, so that xformers is not imported. Their relatives (causal, local, gappy, paged) see less
# than a whole block, or have other meanings for the same fields.
BLOCK_DIAGONAL = ("BlockDiagonalMask", "BlockDiagonalPaddedKeysMask")

# Of one row on a GPU, where they are not counted: what the CUDA kernel takes.
MOST_STRETCHES = 64


def segments_from_block_diagonal(mask: Any) -> tuple[Tensor, Tensor]:
    """Query and key segments, each int32 [B, 1, 2], of an xformers `BlockDiagonalMask` of B blocks, or
    of a `BlockDiagonalPaddedKeysMask`; the tensors are those for xformers without their first axis of 1.

    Raises TypeError for every other mask.
    """
    name = type(mask).__name__
    if name not in BLOCK_DIAGONAL:
        raise TypeError(
            f"segments_from_block_diagonal: mask is a {name}, expected a {' or a '.join(BLOCK_DIAGONAL)}, "
            "in which every query sees all keys of its block"
        )
    return _blocks(mask.q_seqinfo), _blocks(mask.k_seqinfo)


def _blocks(info: Any) -> Tensor:
    """int32 [B, 1, 2] of xformers' start of each block [B + 1] and, where blocks are padded, lengths [B]."""
    length = info.seqlen if hasattr(info, "seqlen") else info.seqstart.diff()
    return torch.stack([info.seqstart[:-1], length], -1)[:, None].to(torch.int32)


def segments_from_nested(x: Any) -> Tensor:
    """Segments int32 [B, 1, 2] of a nested tensor [B, j, ...] in torch's jagged layout: its sequences
    as they lie in `x.values()`, those of `torch.nested.narrow` too.

    Raises TypeError for a tensor that is not nested or not jagged, ValueError where the ragged axis
    is not the second.
    """
    if not x.is_nested or x.layout != torch.jagged:
        kind = f"nested with layout {x.layout}" if x.is_nested else f"a plain tensor {list(x.shape)}"
        raise TypeError(f"segments_from_nested: x is {kind}, expected a nested tensor with torch.jagged")
    if x._ragged_idx != 1:
        raise ValueError(
            f"segments_from_nested: x is ragged along axis {x._ragged_idx}, expected axis 1: [B, j, ...]"
        )
    offsets, lengths = x.offsets(), x.lengths()
    if lengths is None:
        lengths = offsets.diff()
    return torch.stack([offsets[:-1], lengths], -1)[:, None].to(torch.int32)


def segments_from_key_padding(key_padding_mask: Tensor, offsets: Sequence[int] | None = None) -> Tensor:
    """Segments int32 [B, M, 2] of a padded tensor [B, L, ...] viewed flat as [B * L, ...].

    key_padding_mask  bool [B, L], True where there is nothing, as for `torch.nn.MultiheadAttention`.
                      transformers' attention_mask says the opposite: pass `attention_mask == 0`.
    offsets           [M + 1]: the column where each modality begins, and last L; default one modality.

    Without offsets a row may have holes: each of its stretches is a segment. M is then the most stretches
    that a row has, at least 1; where values cannot be looked at, in a compiled graph or on a GPU, the most
    that L columns can hold, (L + 1) // 2, and on a GPU at most 64. With offsets what is not padding must
    be one stretch in each modality of each row, wherever it begins.

    Raises ValueError for shapes and dtypes and, on the CPU, for a hole in a modality, named by its row and
    column. In a compiled graph and on a GPU an assertion on the device fails for such a hole, and for a
    row of more than 64 stretches.
    """
    if key_padding_mask.ndim != 2 or key_padding_mask.dtype != torch.bool:
        raise ValueError(
            "segments_from_key_padding: key_padding_mask must be bool [rows, columns], "
            f"got {key_padding_mask.dtype} {list(key_padding_mask.shape)}"
        )
    B, L = key_padding_mask.shape
    if offsets is None:
        segments = stretches(~key_padding_mask)
    else:
        columns = [int(column) for column in offsets]
        if columns[0] != 0 or columns[-1] != L or any(begin > end for begin, end in pairwise(columns)):
            raise ValueError(
                f"segments_from_key_padding: offsets is {columns}, expected columns from 0 to {L}"
            )
        segments = _one_stretch_each(~key_padding_mask, columns)
    first_row = torch.arange(B, device=segments.device, dtype=torch.int32) * L
    return torch.stack([segments[..., 0] + first_row[:, None], segments[..., 1]], -1)


def stretches(there: Tensor) -> Tensor:
    """bool [B, L] -> int32 [B, M, 2]: (first column, length) of each stretch of True in a row, in order; M as
    in `segments_from_key_padding`, and what a row has less is of length 0."""
    B, L = there.shape
    first = there & ~pad(there, (1, 0))[:, :-1]
    number = first.cumsum(1)  # 1, 2, ...: which stretch a column lies in
    if _can_look(there):
        M = max(1, int(first.sum(1).amax())) if there.numel() else 1
    else:
        M = _room(L, there.device)
        if M < (L + 1) // 2:
            torch._assert_async(
                (first.sum(1) <= M).all(),
                f"segments_from_key_padding: a row has more than {M} stretches that are not padding",
            )
            number = number.clamp(max=M)
    column = torch.arange(L, device=there.device).expand(B, L)
    none = column.new_zeros(B, M + 1)  # what belongs to no stretch goes to number 0
    start = none.scatter(1, number.where(first, 0), column)
    length = none.scatter_add(1, number.where(there, 0), there.long())
    return torch.stack([start, length], -1)[:, 1:].to(torch.int32)


def _room(L: int, device: torch.device) -> int:
    """For how many stretches of L columns there is room where they cannot be counted."""
    most = max(1, (L + 1) // 2)
    return most if device.type == "cpu" else min(most, MOST_STRETCHES)


def _one_stretch_each(there: Tensor, columns: list[int]) -> Tensor:
    """bool [B, L] -> int32 [B, M, 2]: (first column, length) of the one stretch between each two columns."""
    position = torch.arange(there.shape[1], device=there.device)
    firsts, lengths = [], []
    for begin, end in pairwise(columns):
        part, column = there[:, begin:end], position[begin:end]
        length = part.sum(1)
        first = torch.where(part, column, end).amin(1) if end > begin else length + begin
        inside = (column >= first[:, None]) & (column < (first + length)[:, None])
        if not _can_look(there):
            torch._assert_async(
                (part == inside).all(),
                f"segments_from_key_padding: key_padding_mask has a hole in columns {begin} to {end}, "
                "expected one stretch without holes in each row",
            )
        elif (part != inside).any():
            b, hole = (inside & ~part).nonzero()[0].tolist()
            raise ValueError(
                f"segments_from_key_padding: key_padding_mask[{b}] has {int(length[b])} columns that are "
                f"not padding, from {int(first[b])} on, with a hole at column {begin + hole}; expected "
                "one stretch without holes"
            )
        firsts.append(first)
        lengths.append(length)
    return torch.stack([torch.stack(firsts, 1), torch.stack(lengths, 1)], -1).to(torch.int32)


def _can_look(x: Tensor) -> bool:
    """Whether its values can be read here and now, without waiting for a device."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
