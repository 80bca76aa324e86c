"""The gradients: of q along the in-edges, of k and v along the out-edges, of the relations' bias."""

import triton
import triton.language as tl

from robustmdiff.kernels.graph_attention.rows import LOG2_E, _index, _items, _pieces_of


@triton.jit
def _backward_targets(
    grad, out, lse, q, k, v, rowptr, col, relation, bias, dq, dq_pieces, delta, dscores,
    nodes, edges, heads, relations, pieces, steps, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, EDGES: tl.constexpr, SPLIT: tl.constexpr,
    BIAS: tl.constexpr, CHECK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dq; delta = grad . out [nodes, H]; with a bias the gradient of each score [H, edges]."""
    head = tl.program_id(0) % heads
    first = (tl.program_id(0) // heads).to(tl.int64) * ROWS
    row, begin, end, some, keep = _items(first, rowptr, nodes, edges, pieces, steps, ROWS, SPLIT)
    d = tl.arange(0, WIDTH)[None, :]
    at, own = (row * heads + head)[:, None] * D + d, some[:, None] & (d < D)
    query = tl.load(q + at, mask=own, other=0).to(tl.float32) * (scale * LOG2_E)
    coming = tl.load(grad + at, mask=own, other=0).to(tl.float32)
    dot = tl.sum(coming * tl.load(out + at, mask=own, other=0).to(tl.float32), 1)
    log_sum = tl.load(lse + row * heads + head, mask=some, other=0) * LOG2_E

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
        weight = tl.where(there, tl.exp2(score - log_sum[:, None]), 0)
        dscore = weight * (tl.sum(coming[:, None, :] * value, 2) - dot[:, None])
        if BIAS:
            tl.store(dscores + head * edges + edge, dscore, mask=there)
        sums += tl.sum(dscore[:, :, None] * key, 1)

    sums *= scale
    if first < pieces:
        item = first + tl.arange(0, ROWS)
        tl.store(dq_pieces + (item * heads + head)[:, None] * D + d, sums, mask=keep[:, None] & (d < D))
    else:
        tl.store(dq + at, sums.to(dq.dtype.element_ty), mask=keep[:, None] & (d < D))
        tl.store(delta + row * heads + head, dot, mask=some)


@triton.jit
def _backward_sources(
    grad, lse, delta, q, k, v, out_rowptr, out_target, out_edge, relation, bias, dk, dv, dk_pieces, dv_pieces,
    nodes, edges, heads, relations, pieces, steps, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, EDGES: tl.constexpr, SPLIT: tl.constexpr,
    BIAS: tl.constexpr, CHECK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dk and dv: the weights again, along the out-edges."""
    head = tl.program_id(0) % heads
    first = (tl.program_id(0) // heads).to(tl.int64) * ROWS
    row, begin, end, some, keep = _items(first, out_rowptr, nodes, edges, pieces, steps, ROWS, SPLIT)
    d = tl.arange(0, WIDTH)[None, :]
    at, own = (row * heads + head)[:, None] * D + d, some[:, None] & (d < D)
    key = tl.load(k + at, mask=own, other=0).to(tl.float32) * (scale * LOG2_E)
    value = tl.load(v + at, mask=own, other=0).to(tl.float32)

    to_key, to_value = tl.zeros([ROWS, WIDTH], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
    for offset in tl.range(0, tl.max(end - begin), EDGES, num_stages=STAGES):
        edge = (begin + offset)[:, None] + tl.arange(0, EDGES)[None, :]
        there = edge < end[:, None]
        target = _index(out_target, edge, there, nodes, CHECK)
        gather = ((target * heads + head) * D)[:, :, None] + tl.arange(0, WIDTH)[None, None, :]
        mask = there[:, :, None] & (tl.arange(0, WIDTH)[None, None, :] < D)
        query = tl.load(q + gather, mask=mask, other=0).to(tl.float32)
        coming = tl.load(grad + gather, mask=mask, other=0).to(tl.float32)
        log_sum = tl.load(lse + target * heads + head, mask=there, other=0) * LOG2_E
        dot = tl.load(delta + target * heads + head, mask=there, other=0)
        score = tl.sum(key[:, None, :] * query, 2)
        if BIAS:
            kind = _index(relation, _index(out_edge, edge, there, edges, CHECK), there, relations, CHECK)
            score += tl.load(bias + head * relations + kind, mask=there, other=0).to(tl.float32) * LOG2_E
        weight = tl.where(there, tl.exp2(score - log_sum), 0)
        dscore = weight * (tl.sum(value[:, None, :] * coming, 2) - dot)
        to_key += tl.sum(dscore[:, :, None] * query, 1)
        to_value += tl.sum(weight[:, :, None] * coming, 1)

    to_key *= scale
    if first < pieces:
        item = first + tl.arange(0, ROWS)
        place = (item * heads + head)[:, None] * D + d
        tl.store(dk_pieces + place, to_key, mask=keep[:, None] & (d < D))
        tl.store(dv_pieces + place, to_value, mask=keep[:, None] & (d < D))
    else:
        tl.store(dk + at, to_key.to(dk.dtype.element_ty), mask=keep[:, None] & (d < D))
        tl.store(dv + at, to_value.to(dv.dtype.element_ty), mask=keep[:, None] & (d < D))


@triton.jit
def _add_up(
    pieces, rowptr, out, nodes, edges, heads, steps,
    D: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """The rows that were split: the sum of their pieces, in order."""
    head, tile = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    row, place, count = _pieces_of(tile, rowptr, nodes, edges, steps, SPLIT)
    d = tl.arange(0, WIDTH)
    sums = tl.zeros([WIDTH], tl.float32)
    for i in range(count):
        sums += tl.load(pieces + (place * heads + head) * D + d, mask=d < D, other=0)
        place = 2 * (tile + i + 1)
    if count > 0:
        tl.store(out + (row * heads + head) * D + d, sums.to(out.dtype.element_ty), mask=d < D)


@triton.jit
def _sum_relations(
    dscores, relation, sums, edges, heads, relations,
    CHUNK: tl.constexpr, EDGES: tl.constexpr, KINDS: tl.constexpr, CHECK: tl.constexpr,
):  # fmt: skip
    """[chunks, H, relations]: the gradients of the scores of CHUNK edges, by relation."""
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = tl.program_id(2) * KINDS + tl.arange(0, KINDS)
    found = tl.zeros([KINDS], tl.float32)
    for offset in range(0, tl.minimum(CHUNK, edges - chunk * CHUNK), EDGES):
        edge = chunk * CHUNK + offset + tl.arange(0, EDGES)
        there = edge < edges
        given = _index(relation, edge, there, relations, CHECK)
        dscore = tl.load(dscores + head * edges + edge, mask=there, other=0)
        found += tl.sum(tl.where(given[:, None] == kind[None, :], dscore[:, None], 0), 0)
    tl.store(sums + (chunk * heads + head) * relations + kind, found, mask=kind < relations)
