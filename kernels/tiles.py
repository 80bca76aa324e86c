"""Segments as lists of tiles, laid out on the device: what masked attention's grids and loops run over."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustmdiff.kernels.launch import OPTIONS, checking


class Tiles:
    """The tiles of segments [B, M, 2], patient by patient, modality by modality.

    records  int32 [limit, 4]: (first row, rows, segment b * M + j, modality j) of each tile; rows = 0 in
             the records after the last tile. A tile has at most `size` rows and lies in one segment.
    first    int32 [B * M + 1]: the first tile of each segment, and the number of tiles.

    `limit` follows from shapes alone, so it is known without waiting for the device.
    """

    def __init__(self, segments: Tensor, rows: int, size: int) -> None:
        B, M = segments.shape[:2]
        self.limit = rows // size + B * M
        self.records = torch.zeros(self.limit, 4, dtype=torch.int32, device=segments.device)
        self.first = torch.empty(B * M + 1, dtype=torch.int32, device=segments.device)
        if M == 0:
            self.first.zero_()
            return
        check = checking()
        _lay_out[(B * M,)](
            segments.contiguous(), self.records, self.first,
            B * M, M, min(rows, 2**31 - 1), self.limit,
            SIZE=size, CHECK=check, num_warps=1, debug=check, **OPTIONS,
        )  # fmt: skip


@triton.jit
def _tiles_of(segments, index, exists, rows, SIZE: tl.constexpr):
    """Start, length and tiles of each segment; a segment that leaves the axis is cut off at its end."""
    start = tl.load(segments + 2 * index.to(tl.int64), mask=exists, other=0)
    length = tl.load(segments + 2 * index.to(tl.int64) + 1, mask=exists, other=0)
    length = tl.where(start < 0, 0, tl.maximum(tl.minimum(length, rows - start), 0))
    return start, length, (length + SIZE - 1) // SIZE


@triton.jit
def _lay_out(
    segments, records, first, S, M, rows, limit, SIZE: tl.constexpr, CHECK: tl.constexpr
):  # a program per segment
    s = tl.program_id(0)
    before = 0
    for begin in range(0, s, 256):
        index = begin + tl.arange(0, 256)
        _, _, tiles = _tiles_of(segments, index, index < s, rows, SIZE)
        before += tl.sum(tiles)
    start, length, tiles = _tiles_of(segments, s, True, rows, SIZE)
    if CHECK:
        given = tl.load(segments + 2 * s.to(tl.int64) + 1)
        tl.device_assert(given == length, "masked_attention: a segment is negative or ends past the rows")
        tl.device_assert(before + tiles <= limit, "masked_attention: segments overlap")
    # Overlapping segments could need more tiles than there are rows for; they write no further.
    tl.store(first + s, tl.minimum(before, limit))
    if s == S - 1:
        tl.store(first + S, tl.minimum(before + tiles, limit))
    for begin in range(0, tiles, 64):
        t = begin + tl.arange(0, 64)
        here = (t < tiles) & (before + t < limit)
        record = records + 4 * (before + t).to(tl.int64)
        tl.store(record, start + t * SIZE, mask=here)
        tl.store(record + 1, tl.minimum(length - t * SIZE, SIZE), mask=here)
        tl.store(record + 2, s, mask=here)
        tl.store(record + 3, s % M, mask=here)
