"""The result: a program for each tile of queries and head."""

import triton
import triton.language as tl

from robustmdiff.kernels.masked_attention.rows import LOG2E, _kept, _past_own, _put, _range_of, _record, _tile


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
    saw = largest > -1e30  # a key that the affinity does not hide (it is at least -1e30, and times LOG2E)
    total = tl.where(saw, total, float("inf"))
    _put(out, sums / total[:, None], row, live, head, H, D, BLOCK_Q, BLOCK_D)
    found = tl.where(saw, (largest + tl.log2(total)) / LOG2E, -1e30)
    tl.store(lse + (row + n).to(tl.int64) * H + head, found, mask=n < live)
