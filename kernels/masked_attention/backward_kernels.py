"""The gradients: of q and the affinity by tiles of queries, of k and v by tiles of keys."""

import triton
import triton.language as tl

from robustmdiff.kernels.masked_attention.rows import (
    LOG2E,
    _kept,
    _past_own,
    _put,
    _range_of,
    _reached,
    _record,
    _tile,
)


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
    saw = _reached(lse, place, n < live)
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
        saw = _reached(lse, place, n < live)
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
