"""masked_attention in Triton: tiles of what is present, softmax online, nothing read that is absent.

A launch cannot ask how long the segments are, so a first kernel lays them out on the device as lists of
tiles (robustmdiff.kernels.tiles). The loops of the others run over the tiles of one patient. They hold no
branch, which would silently cost the software pipeline: what is absent or excluded shortens them.

Softmax and sums are float32. Where the inputs are 16 bits wide the weights are rounded to that width
before they meet v, as tensor cores need. Sums run in a fixed order, without atomics.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from robustmdiff.kernels.launch import (
    INTERPRETED,
    OPTIONS,
    Config,
    of_architecture,
    on_device_of,
    rows_contiguous,
)
from robustmdiff.kernels.tiles import Tiles

NOTHING = -1e30  # the log-sum-exp of a row that saw nothing
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    (Tq, H, D), Tk = q.shape, k.shape[0]
    out = torch.zeros(Tq, H, D, dtype=q.dtype, device=q.device)
    lse = torch.full((Tq, H), NOTHING, dtype=torch.float32, device=q.device)
    if Tq == 0:
        return out, lse
    q, k, v = rows_contiguous(q, k, v)
    config = _configuration(FORWARD, q)
    with on_device_of(q):
        q_tiles, k_tiles = Tiles(q_segments, Tq, config.rows), Tiles(k_segments, Tk, config.columns)
        _forward[(q_tiles.limit, H)](
            q, k, v, out, lse, *_shared(q_tiles, k_tiles, affinity, key, dropout_p),
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
            q_segments.shape[1], k_segments.shape[1], scale,
            **_constants(q, k, affinity, key, exclude_own, config),
        )  # fmt: skip
    return out, lse


def backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (Tq, H, D), (Tk, Hkv, _) = q.shape, k.shape
    Mq, M = q_segments.shape[1], k_segments.shape[1]
    dq = torch.zeros(Tq, H, D, dtype=q.dtype, device=q.device)
    dk, dv = (torch.zeros(Tk, Hkv, D, dtype=q.dtype, device=q.device) for _ in "kv")
    daffinity = q.new_empty(0) if affinity is None else torch.zeros_like(affinity).contiguous()
    if Tq == 0 or Tk == 0:
        return dq, dk, dv, daffinity
    q, k, v, grad_out, out = rows_contiguous(q, k, v, grad_out, out)
    strides = [n for x in (q, k, v, grad_out, out) for n in x.stride()[:2]]
    lse = lse.contiguous()
    delta = torch.empty_like(lse)
    by_query, by_key = _configuration(BACKWARD_QUERIES, q), _configuration(BACKWARD_KEYS, q)
    with on_device_of(q):
        q_tiles, k_tiles = Tiles(q_segments, Tq, by_query.rows), Tiles(k_segments, Tk, by_query.columns)
        partial = None
        if affinity is not None:
            partial = torch.empty(q_tiles.limit, H, M, dtype=torch.float32, device=q.device)
        _backward_queries[(q_tiles.limit, H)](
            q, k, v, grad_out, out, lse, delta, dq, partial,
            *_shared(q_tiles, k_tiles, affinity, key, dropout_p),
            *strides, Mq, M, scale, WIDTH=triton.next_power_of_2(M),
            **_constants(q, k, affinity, key, exclude_own, by_query),
        )  # fmt: skip
        if affinity is not None:
            _sum_affinity[(H, Mq)](
                partial, q_tiles.records, daffinity, q_tiles.limit, H, Mq, M,
                WIDTH=triton.next_power_of_2(M), TILES=32, num_warps=4, **OPTIONS,
            )  # fmt: skip
        if by_key[:2] != by_query[:2]:
            q_tiles, k_tiles = Tiles(q_segments, Tq, by_key.rows), Tiles(k_segments, Tk, by_key.columns)
        _backward_keys[(k_tiles.limit, Hkv)](
            q, k, v, grad_out, lse, delta, dk, dv,
            *_shared(q_tiles, k_tiles, affinity, key, dropout_p),
            *strides[:8], Mq, M, scale, **_constants(q, k, affinity, key, exclude_own, by_key),
        )  # fmt: skip
    return dq, dk, dv, daffinity


# (queries, keys) of a tile, warps, stages: by architecture, then by bits of the dtype and padded width.
# None is any other GPU from compute capability 8.0 on: 99 KiB of shared memory. float32 is exact, so it
# stays off the tensor cores and takes small tiles. Chosen by what compiles without a spill.
FORWARD = {
    80: {
        (16, 64): Config(128, 64, 4, 3), (16, 128): Config(128, 64, 8, 3), (16, 256): Config(64, 32, 8, 3),
        (32, 64): Config(64, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
    90: {
        (16, 64): Config(128, 64, 8, 3), (16, 128): Config(128, 64, 8, 3), (16, 256): Config(128, 32, 8, 3),
        (32, 64): Config(64, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
    None: {
        (16, 64): Config(128, 64, 8, 3), (16, 128): Config(128, 64, 8, 3), (16, 256): Config(64, 32, 8, 2),
        (32, 64): Config(64, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
}  # fmt: skip
BACKWARD_QUERIES = {
    90: {
        (16, 64): Config(128, 64, 8, 2), (16, 128): Config(64, 64, 8, 2), (16, 256): Config(64, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
    None: {
        (16, 64): Config(128, 64, 8, 2), (16, 128): Config(64, 32, 8, 2), (16, 256): Config(32, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(32, 16, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
}  # fmt: skip
BACKWARD_KEYS = {
    90: {
        (16, 64): Config(64, 64, 8, 2), (16, 128): Config(64, 64, 8, 2), (16, 256): Config(32, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(16, 32, 8, 2), (32, 256): Config(16, 16, 8, 2),
    },
    None: {
        (16, 64): Config(64, 64, 8, 2), (16, 128): Config(32, 64, 8, 2), (16, 256): Config(16, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(16, 32, 8, 2), (32, 256): Config(16, 16, 8, 2),
    },
}  # fmt: skip


def _configuration(table: dict, q: Tensor) -> Config:
    if INTERPRETED:
        return Config(16, 16, 1, 1)
    width = max(64, triton.next_power_of_2(q.shape[2]))
    return of_architecture(table)[8 * q.element_size(), width]


def _shared(
    q_tiles: Tiles, k_tiles: Tiles, affinity: Tensor | None, key: Tensor | None, dropout_p: float
) -> tuple:
    """What each kernel needs of the layout, of the affinity and of dropout."""
    # A word is kept from this on, compared as the definition does, in float32.
    threshold = int(np.ceil(np.float32(dropout_p * 2**24)))
    affinity = None if affinity is None else affinity.contiguous()
    return (
        q_tiles.records, q_tiles.first, k_tiles.records, k_tiles.first, affinity, key, threshold,
        1 / (1 - dropout_p),
    )  # fmt: skip


def _constants(
    q: Tensor, k: Tensor, affinity: Tensor | None, key: Tensor | None, exclude_own: bool, config: Config
) -> dict:
    return {
        "D": q.shape[2], "BLOCK_D": max(16, triton.next_power_of_2(q.shape[2])),
        "H": q.shape[1], "GROUP": q.shape[1] // k.shape[1],
        "BLOCK_Q": config.rows, "BLOCK_K": config.columns,
        "AFFINITY": affinity is not None, "EXCLUDE_OWN": exclude_own, "DROPOUT": key is not None,
        "num_warps": config.warps, "num_stages": config.stages, **OPTIONS,
    }  # fmt: skip


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
def _forward(
    q, k, v, out, lse,
    q_records, q_first, k_records, k_first, affinity, key, threshold, keep_scale,
    q_row, q_head, k_row, k_head, v_row, v_head, Mq, M, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, H: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    AFFINITY: tl.constexpr, EXCLUDE_OWN: tl.constexpr, DROPOUT: tl.constexpr,
):  # a program per tile of queries and head  # fmt: skip
    record = q_records + 4 * tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    row = tl.load(record)
    live = tl.load(record + 1)
    i = tl.load(record + 3)
    if live == 0:
        return
    patient = tl.load(record + 2) // Mq
    begin, count, own, skip = _range_of(k_first, patient, M, i, EXCLUDE_OWN)
    n = tl.arange(0, BLOCK_Q)
    c = tl.arange(0, BLOCK_K)
    queries = _tile(q, row, live, head, q_row, q_head, D, BLOCK_Q, BLOCK_D)
    largest = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    sums = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    t = _past_own(begin, own, skip, EXCLUDE_OWN)
    at, there, _, bias = _record(k_records, t, count > 0, affinity, (head * Mq + i) * M, 1, AFFINITY)
    for x in range(0, count):
        t = _past_own(begin + x + 1, own, skip, EXCLUDE_OWN)
        after = _record(k_records, t, x + 1 < count, affinity, (head * Mq + i) * M, 1, AFFINITY)
        keys = _tile(k, at, there, head // GROUP, k_row, k_head, D, BLOCK_K, BLOCK_D)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * (scale * LOG2E)
        if AFFINITY:
            scores += bias
        scores = tl.where((c < there)[None, :], scores, -float("inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - now[:, None])
        shrink = tl.exp2(largest - now)
        total = total * shrink + tl.sum(weights, 1)
        if DROPOUT:
            keep = _kept(key, threshold, (row + n)[:, None], head, (at + c)[None, :])
            weights = tl.where(keep, weights * keep_scale, 0.0)
        values = _tile(v, at, there, head // GROUP, v_row, v_head, D, BLOCK_K, BLOCK_D)
        sums = tl.dot(weights.to(values.dtype), values, sums * shrink[:, None], input_precision="ieee")
        largest = now
        at, there, _, bias = after
    saw = total > 0
    _put(out, sums / tl.where(saw, total, 1.0)[:, None], row, live, head, H, D, BLOCK_Q, BLOCK_D)
    found = tl.where(saw, (largest + tl.log2(tl.where(saw, total, 1.0))) / LOG2E, -1e30)
    tl.store(lse + (row + n).to(tl.int64) * H + head, found, mask=n < live)


@triton.jit
def _backward_queries(
    q, k, v, grad, out, lse, delta, dq, partial,
    q_records, q_first, k_records, k_first, affinity, key, threshold, keep_scale,
    q_row, q_head, k_row, k_head, v_row, v_head, grad_row, grad_head, out_row, out_head, Mq, M, scale,
    WIDTH: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, H: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    AFFINITY: tl.constexpr, EXCLUDE_OWN: tl.constexpr, DROPOUT: tl.constexpr,
):  # a program per tile of queries and head: dq, delta = sum(grad out), its part of daffinity  # fmt: skip
    record = q_records + 4 * tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    row = tl.load(record)
    live = tl.load(record + 1)
    i = tl.load(record + 3)
    if live == 0:
        return
    patient = tl.load(record + 2) // Mq
    begin, count, own, skip = _range_of(k_first, patient, M, i, EXCLUDE_OWN)
    n = tl.arange(0, BLOCK_Q)
    c = tl.arange(0, BLOCK_K)
    m = tl.arange(0, WIDTH)
    queries = _tile(q, row, live, head, q_row, q_head, D, BLOCK_Q, BLOCK_D)
    g = _tile(grad, row, live, head, grad_row, grad_head, D, BLOCK_Q, BLOCK_D)
    answer = _tile(out, row, live, head, out_row, out_head, D, BLOCK_Q, BLOCK_D)
    g_out = tl.sum(g.to(tl.float32) * answer.to(tl.float32), 1)
    place = (row + n).to(tl.int64) * H + head
    tl.store(delta + place, g_out, mask=n < live)
    saw = tl.load(lse + place, mask=n < live, other=float("inf")) * LOG2E
    sums = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    by_modality = tl.zeros([WIDTH], tl.float32)
    t = _past_own(begin, own, skip, EXCLUDE_OWN)
    at, there, j, bias = _record(k_records, t, count > 0, affinity, (head * Mq + i) * M, 1, AFFINITY)
    for x in range(0, count):
        t = _past_own(begin + x + 1, own, skip, EXCLUDE_OWN)
        after = _record(k_records, t, x + 1 < count, affinity, (head * Mq + i) * M, 1, AFFINITY)
        keys = _tile(k, at, there, head // GROUP, k_row, k_head, D, BLOCK_K, BLOCK_D)
        values = _tile(v, at, there, head // GROUP, v_row, v_head, D, BLOCK_K, BLOCK_D)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * (scale * LOG2E)
        if AFFINITY:
            scores += bias
        weights = tl.where((c < there)[None, :], tl.exp2(scores - saw[:, None]), 0.0)
        dweights = tl.dot(g, tl.trans(values), input_precision="ieee")
        if DROPOUT:
            keep = _kept(key, threshold, (row + n)[:, None], head, (at + c)[None, :])
            dweights = tl.where(keep, dweights * keep_scale, 0.0)
        dscores = weights * (dweights - g_out[:, None])
        if AFFINITY:
            by_modality += tl.where(m == j, tl.sum(dscores), 0.0)
        sums = tl.dot(dscores.to(keys.dtype), keys, sums, input_precision="ieee")
        at, there, j, bias = after
    _put(dq, sums * scale, row, live, head, H, D, BLOCK_Q, BLOCK_D)
    if AFFINITY:
        tl.store(partial + (tl.program_id(0).to(tl.int64) * H + head) * M + m, by_modality, mask=m < M)


@triton.jit
def _sum_affinity(
    partial, q_records, daffinity, limit, H, Mq, M, WIDTH: tl.constexpr, TILES: tl.constexpr
):  # a program per head and query modality
    head, i = tl.program_id(0), tl.program_id(1)
    m = tl.arange(0, WIDTH)
    total = tl.zeros([WIDTH], tl.float32)
    for begin in range(0, limit, TILES):
        t = begin + tl.arange(0, TILES).to(tl.int64)
        live = tl.load(q_records + 4 * t + 1, mask=t < limit, other=0) > 0
        mine = live & (tl.load(q_records + 4 * t + 3, mask=live, other=-1) == i)
        at = partial + ((t * H + head) * M)[:, None] + m[None, :]
        total += tl.sum(tl.load(at, mask=mine[:, None] & (m < M)[None, :], other=0.0), 0)
    tl.store(daffinity + (head * Mq + i) * M + m, total.to(daffinity.dtype.element_ty), mask=m < M)


@triton.jit
def _query_tile(x, begin, count, own, skip, kv_head, GROUP: tl.constexpr, EXCLUDE_OWN: tl.constexpr):
    """Head of q and tile of queries that come x-th: the tiles of one head, then those of the next."""
    head = kv_head
    t = begin + x
    if GROUP > 1:
        head = kv_head * GROUP + x // tl.maximum(count, 1)
        t = begin + x % tl.maximum(count, 1)
    return head, _past_own(t, own, skip, EXCLUDE_OWN)


@triton.jit
def _backward_keys(
    q, k, v, grad, lse, delta, dk, dv,
    q_records, q_first, k_records, k_first, affinity, key, threshold, keep_scale,
    q_row, q_head, k_row, k_head, v_row, v_head, grad_row, grad_head, Mq, M, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, H: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    AFFINITY: tl.constexpr, EXCLUDE_OWN: tl.constexpr, DROPOUT: tl.constexpr,
):  # a program per tile of keys and head of k: dk, dv  # fmt: skip
    record = k_records + 4 * tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    at = tl.load(record)
    there = tl.load(record + 1)
    j = tl.load(record + 3)
    if there == 0:
        return
    patient = tl.load(record + 2) // M
    begin, count, own, skip = _range_of(q_first, patient, Mq, j, EXCLUDE_OWN)
    n = tl.arange(0, BLOCK_Q)
    c = tl.arange(0, BLOCK_K)
    keys = _tile(k, at, there, kv_head, k_row, k_head, D, BLOCK_K, BLOCK_D)
    values = _tile(v, at, there, kv_head, v_row, v_head, D, BLOCK_K, BLOCK_D)
    dkeys = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dvalues = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    head, t = _query_tile(0, begin, count, own, skip, kv_head, GROUP, EXCLUDE_OWN)
    row, live, _, bias = _record(q_records, t, count > 0, affinity, head * Mq * M + j, M, AFFINITY)
    for x in range(0, count * GROUP):
        head_after, t = _query_tile(x + 1, begin, count, own, skip, kv_head, GROUP, EXCLUDE_OWN)
        exists = x + 1 < count * GROUP
        after = _record(q_records, t, exists, affinity, head_after * Mq * M + j, M, AFFINITY)
        queries = _tile(q, row, live, head, q_row, q_head, D, BLOCK_Q, BLOCK_D)
        g = _tile(grad, row, live, head, grad_row, grad_head, D, BLOCK_Q, BLOCK_D)
        place = (row + n).to(tl.int64) * H + head
        saw = tl.load(lse + place, mask=n < live, other=float("inf")) * LOG2E
        g_out = tl.load(delta + place, mask=n < live, other=0.0)
        scores = tl.dot(keys, tl.trans(queries), input_precision="ieee") * (scale * LOG2E)
        if AFFINITY:
            scores += bias
        weights = tl.exp2(scores - saw[None, :])  # [keys, queries]; the keys beyond the tile are not written
        dweights = tl.dot(values, tl.trans(g), input_precision="ieee")
        kept = weights
        if DROPOUT:
            keep = _kept(key, threshold, (row + n)[None, :], head, (at + c)[:, None])
            kept = tl.where(keep, weights * keep_scale, 0.0)
            dweights = tl.where(keep, dweights * keep_scale, 0.0)
        dvalues = tl.dot(kept.to(g.dtype), g, dvalues, input_precision="ieee")
        dscores = weights * (dweights - g_out[None, :])
        dkeys = tl.dot(dscores.to(queries.dtype), queries, dkeys, input_precision="ieee")
        head = head_after
        row, live, _, bias = after
    _put(dk, dkeys * scale, at, there, kv_head, H // GROUP, D, BLOCK_K, BLOCK_D)
    _put(dv, dvalues, at, there, kv_head, H // GROUP, D, BLOCK_K, BLOCK_D)
