"""What the kernels of masked attention share: their rows in memory, a patient's tiles, dropout."""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _tile(
    tensor,
    row,
    live,
    head,
    row_stride,
    head_stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """[ROWS, BLOCK_D] of one head, from `row` on; 0 beyond its `live` rows and beyond width D."""
    n = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    at = tensor + (row + n).to(tl.int64)[:, None] * row_stride + head.to(tl.int64) * head_stride + d[None, :]
    if D == BLOCK_D:
        return tl.load(at, mask=(n < live)[:, None], other=0.0)
    return tl.load(at, mask=(n < live)[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _put(
    tensor, x, row, live, head, H: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Write [ROWS, BLOCK_D] to the contiguous tensor [T, H, D]."""
    n = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    at = tensor + ((row + n).to(tl.int64)[:, None] * H + head) * D + d[None, :]
    tl.store(at, x.to(tensor.dtype.element_ty), mask=(n < live)[:, None] & (d < D)[None, :])


@triton.jit
def _kept(key, threshold, q_row, head, k_row):
    """Which weights dropout keeps, as robustmdiff.ops.masked_attention.dropout defines it."""
    word = (k_row >> 2).to(tl.int32) + 0 * q_row
    zero = 0 * word
    offset = tl.load(key + 1).to(tl.int32)
    w0, w1, w2, w3 = tl.philox(tl.load(key), word, zero + q_row, zero + head, zero + offset)
    which = (k_row & 3) + zero
    drawn = tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
    return (drawn >> 8) >= threshold


@triton.jit
def _range_of(first, patient, modalities, own, EXCLUDE_OWN: tl.constexpr):
    """A patient's tiles without those of modality `own`: begin, count, and (from, by) to step over own."""
    begin = tl.load(first + patient * modalities)
    count = tl.load(first + (patient + 1) * modalities) - begin
    own_begin = begin + count
    own_count = 0 * count
    if EXCLUDE_OWN:
        own_begin = tl.load(first + patient * modalities + own)
        own_count = tl.load(first + patient * modalities + own + 1) - own_begin
    return begin, count - own_count, own_begin, own_count


@triton.jit
def _record(records, t, exists, affinity, row, step, AFFINITY: tl.constexpr):
    """First row, rows, modality and affinity (at row + step * modality, in bits) of tile t.

    A loop fetches the record of the tile after the one it is at. Fetched where it is needed, it would
    leave the address of the tile's keys unknown until then, and the pipeline one tile deep, however many
    stages it is given.
    """
    record = records + 4 * t.to(tl.int64)
    j = tl.load(record + 3, mask=exists, other=0)
    bias = 0.0
    if AFFINITY:
        bias = tl.load(affinity + row + step * j, mask=exists, other=0.0).to(tl.float32) * LOG2E
    return tl.load(record, mask=exists, other=0), tl.load(record + 1, mask=exists, other=0), j, bias


@triton.jit
def _past_own(t, own, skip, EXCLUDE_OWN: tl.constexpr):
    if EXCLUDE_OWN:
        t += skip * (t >= own).to(tl.int32)
    return t


@triton.jit
def _reached(lse, at, there):
    """The log-sum-exp of rows, base 2; infinite, so that every weight is 0, where a row saw nothing."""
    found = tl.load(lse + at, mask=there, other=-1e30)
    return tl.where(found > -1e30, found * LOG2E, float("inf"))
