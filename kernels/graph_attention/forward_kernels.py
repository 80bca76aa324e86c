"""The result of every item, and of the rows that were split."""

import triton
import triton.language as tl

from robustmdiff.kernels.graph_attention.rows import LOG2_E, NOTHING, _index, _items, _pieces_of


@triton.jit
def _forward(
    q, k, v, rowptr, col, relation, bias, out, lse, out_pieces, lse_pieces,
    nodes, edges, heads, relations, pieces, steps, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, EDGES: tl.constexpr, SPLIT: tl.constexpr,
    BIAS: tl.constexpr, CHECK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % heads
    first = (tl.program_id(0) // heads).to(tl.int64) * ROWS
    row, begin, end, some, keep = _items(first, rowptr, nodes, edges, pieces, steps, ROWS, SPLIT)
    d = tl.arange(0, WIDTH)[None, :]
    at = (row * heads + head)[:, None] * D + d
    query = tl.load(q + at, mask=some[:, None] & (d < D), other=0).to(tl.float32) * (scale * LOG2_E)

    largest = tl.full([ROWS], NOTHING, tl.float32)  # in powers of 2, as exp2 is what the hardware has
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    for offset in tl.range(0, tl.max(end - begin), EDGES, num_stages=STAGES):
        edge = (begin + offset)[:, None] + tl.arange(0, EDGES)[None, :]
        there = edge < end[:, None]
        source = _index(col, edge, there, nodes, CHECK)
        gather = ((source * heads + head) * D)[:, :, None] + tl.arange(0, WIDTH)[None, None, :]
        mask = there[:, :, None] & (tl.arange(0, WIDTH)[None, None, :] < D)
        key = tl.load(k + gather, mask=mask, other=0).to(tl.float32)
        value = tl.load(v + gather, mask=mask, other=0).to(tl.float32)
        score = tl.sum(query[:, None, :] * key, 2)
        if BIAS:
            kind = _index(relation, edge, there, relations, CHECK)
            score += tl.load(bias + head * relations + kind, mask=there, other=0).to(tl.float32) * LOG2_E
        score = tl.where(there, score, NOTHING)
        larger = tl.maximum(largest, tl.max(score, 1))
        weight = tl.where(there, tl.exp2(score - larger[:, None]), 0)
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weight, 1)
        sums = sums * shrink[:, None] + tl.sum(weight[:, :, None] * value, 1)
        largest = larger

    nothing = total == 0
    total = tl.where(nothing, 1, total)
    result = sums / total[:, None]
    log_sum = tl.where(nothing, NOTHING, largest / LOG2_E + tl.log(total))
    if first < pieces:
        item = first + tl.arange(0, ROWS)
        tl.store(out_pieces + (item * heads + head)[:, None] * D + d, result, mask=keep[:, None] & (d < D))
        tl.store(lse_pieces + item * heads + head, log_sum, mask=keep)
    else:
        tl.store(out + at, result.to(out.dtype.element_ty), mask=keep[:, None] & (d < D))
        tl.store(lse + row * heads + head, log_sum, mask=keep)


@triton.jit
def _combine(
    out_pieces, lse_pieces, rowptr, out, lse, nodes, edges, heads, steps,
    D: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """The rows that were split: their pieces weighted by what each saw, in order."""
    head, tile = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    row, place, count = _pieces_of(tile, rowptr, nodes, edges, steps, SPLIT)
    d = tl.arange(0, WIDTH)
    largest, total = tl.full([], NOTHING, tl.float32), tl.zeros([], tl.float32)
    sums = tl.zeros([WIDTH], tl.float32)
    for i in range(count):
        seen = tl.load(lse_pieces + place * heads + head)
        result = tl.load(out_pieces + (place * heads + head) * D + d, mask=d < D, other=0)
        larger = tl.maximum(largest, seen)
        weight, shrink = tl.exp(seen - larger), tl.exp(largest - larger)
        total = total * shrink + weight
        sums = sums * shrink + weight * result
        largest = larger
        place = 2 * (tile + i + 1)
    if count > 0:
        at = (row * heads + head) * D + d
        tl.store(out + at, (sums / total).to(out.dtype.element_ty), mask=d < D)
        tl.store(lse + row * heads + head, largest + tl.log(total))
