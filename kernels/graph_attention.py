"""graph_attention in Triton: online softmax over the in-edges of a node, its gradient along the transpose.

A program works on a few items. An item is a row of the graph (a node and its in-edges; in the transpose
its out-edges) or, of a row longer than SPLIT, a piece of SPLIT edges counted from the row's start. Which
rows are long is decided on the device, so a launch needs nothing but shapes: among SPLIT neighbouring edges
a row starts one piece at most, and two long rows at most start any, so 2 ceil(edges / SPLIT) places hold all
pieces. `_combine` and `_add_up` put the pieces of a row together in order. Where a row stands among the
others changes no bit of it.

Loops run to the longest item of the program and have no branch inside, which would silently cost the
software pipeline; what a shorter item lacks is masked and not read. Softmax and sums are float32, in one
order, without atomics.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustmdiff.kernels.launch import INTERPRETED, OPTIONS, Config, checking, of_architecture, on_device_of

SPLIT = 512  # edges; the same everywhere, as it decides how sums are grouped
NOTHING: tl.constexpr = tl.constexpr(-1e30)  # the log-sum-exp of a row that saw nothing
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _row_of(rowptr, edge, nodes, steps):
    """The row that holds each edge: the last one whose pointer is not past it."""
    low, high = tl.zeros_like(edge), tl.zeros_like(edge) + nodes
    for _ in range(steps):
        middle = (low + high) // 2
        undecided = high - low > 1
        before = tl.load(rowptr + middle, mask=undecided, other=0) <= edge
        low = tl.where(undecided & before, middle, low)
        high = tl.where(undecided & ~before, middle, high)
    return low


@triton.jit
def _ends(rowptr, row, there, edges):
    """Where each row's edges start and stop, kept within 0 to edges."""
    start = tl.minimum(tl.maximum(tl.load(rowptr + row, mask=there, other=0), 0), edges)
    stop = tl.minimum(tl.maximum(tl.load(rowptr + row + 1, mask=there, other=0), start), edges)
    return start, stop


@triton.jit
def _items(first, rowptr, nodes, edges, pieces, steps, ROWS: tl.constexpr, SPLIT: tl.constexpr):
    """Items first .. first + ROWS - 1: the pieces, then the rows.

    row, its edges `begin` to `end`, whether it has edges, whether the item is one to store.
    """
    item = first + tl.arange(0, ROWS)
    tile, second = item // 2, item % 2
    edge = tl.minimum(tile * SPLIT + second * (SPLIT - 1), edges - 1)
    piece = first < pieces
    row = tl.where(piece, _row_of(rowptr, edge, nodes, tl.where(piece, steps, 0)), item - pieces)
    there = tl.where(piece, tile * SPLIT < edges, row < nodes)
    start, stop = _ends(rowptr, row, there, edges)
    long = stop - start > SPLIT
    # Of two places in a tile the second is for a row that starts inside it.
    taken = there & long & ((second == 0) | (start > tile * SPLIT))
    cut = start + (tile - start // SPLIT) * SPLIT
    keep = tl.where(piece, taken & (cut < stop), there & ~long)
    begin = tl.where(piece, cut, start)
    end = tl.where(keep, tl.minimum(stop, begin + SPLIT), begin)
    some = tl.where(piece, keep, stop > start)
    return row, begin, end, some, keep


@triton.jit
def _index(base, at, there, size, CHECK: tl.constexpr):
    """Indices read from memory, kept within 0 to size - 1."""
    index = tl.load(base + at, mask=there, other=0)
    if CHECK:
        tl.device_assert((index >= 0) & (index < size), "graph_attention: an index leaves its range")
    return tl.minimum(tl.maximum(index, 0), size - 1)


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
def _pieces_of(tile, rowptr, nodes, edges, steps, SPLIT: tl.constexpr):
    """The long row that starts in this tile, the place of its first piece, their number (0: none does)."""
    last = (tile + 1) * SPLIT - 1  # a long row that starts in a tile goes past its end
    row = _row_of(rowptr, tl.minimum(last, edges - 1), nodes, steps)
    start, stop = _ends(rowptr, row, last < edges, edges)
    mine = (stop - start > SPLIT) & (start // SPLIT == tile)
    return row, 2 * tile + (start > tile * SPLIT), tl.where(mine, (stop - start + SPLIT - 1) // SPLIT, 0)


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


# Nodes and edges of a tile by the width that a head is padded to: 8 gathered values a thread and tensor,
# which keeps registers low enough for 5 to 8 warps a scheduler. Not timed on a GPU yet, so every
# architecture has the same.
TILES = {
    16: Config(8, 4, 2, 2),
    32: Config(4, 4, 2, 2),
    64: Config(4, 4, 4, 2),
    128: Config(2, 4, 4, 2),
    256: Config(1, 4, 4, 2),
}
CONFIGS = {80: TILES, 90: TILES, 120: TILES, None: TILES}
INTERPRETER = Config(16, 8, 1, 1)  # few programs
CHUNK = 4096  # edges of one sum over relations


class _Launch:
    """The sizes of one call that all its kernels share."""

    def __init__(self, q: Tensor, edges: int, relation_bias: Tensor | None) -> None:
        self.nodes, self.heads, self.D = q.shape
        self.width = max(16, triton.next_power_of_2(self.D))
        self.edges = edges
        self.config = INTERPRETER if INTERPRETED else of_architecture(CONFIGS)[self.width]
        self.relations = 0 if relation_bias is None else relation_bias.shape[1]
        self.tiles = triton.cdiv(edges, SPLIT) if edges > SPLIT else 0
        # In whole programs, so that a program holds pieces or rows and never both.
        self.pieces = triton.cdiv(2 * self.tiles, self.config.rows) * self.config.rows
        self.programs = triton.cdiv(self.pieces + self.nodes, self.config.rows) * self.heads
        self.steps = self.nodes.bit_length()
        self.head = {"D": self.D, "WIDTH": self.width, "SPLIT": SPLIT}

    def places(self, like: Tensor, *shape: int) -> Tensor:
        return like.new_empty(self.pieces, self.heads, *shape, dtype=torch.float32)

    def items(self, kernel: Any, *tensors: Tensor | None) -> None:
        kernel[(self.programs,)](
            *tensors, self.nodes, self.edges, self.heads, self.relations, self.pieces, self.steps,
            self.D**-0.5,
            **self.head, ROWS=self.config.rows, EDGES=self.config.columns, STAGES=self.config.stages,
            BIAS=self.relations > 0, CHECK=checking(),
            num_warps=self.config.warps, debug=checking(), **OPTIONS,
        )  # fmt: skip

    def together(self, kernel: Any, *tensors: Tensor) -> None:
        """After the items: the rows that were split, if a row can have been."""
        if self.tiles:
            kernel[(self.tiles * self.heads,)](
                *tensors, self.nodes, self.edges, self.heads, self.steps, **self.head, num_warps=1, **OPTIONS
            )


def _packed(*tensors: Tensor | None) -> Any:
    return tuple(None if x is None else x.contiguous() for x in tensors)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rowptr: Tensor,
    col: Tensor,
    relation: Tensor | None,
    out_rowptr: Tensor,
    out_target: Tensor,
    out_edge: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """out [n, H, D] and its log-sum-exp float32 [n, H]; arguments as in the op's definition."""
    out, lse = (
        torch.empty_like(q, memory_format=torch.contiguous_format),
        q.new_empty(q.shape[:2], dtype=torch.float32),
    )
    if out.numel() == 0:
        return out, lse
    inputs = _packed(q, k, v, rowptr, col, relation, bias)
    with on_device_of(q):
        launch = _Launch(q, col.shape[0], bias)
        out_pieces, lse_pieces = launch.places(q, launch.D), launch.places(q)
        launch.items(_forward, *inputs, out, lse, out_pieces, lse_pieces)
        launch.together(_combine, out_pieces, lse_pieces, inputs[3], out, lse)
    return out, lse


def backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rowptr: Tensor,
    col: Tensor,
    relation: Tensor | None,
    out_rowptr: Tensor,
    out_target: Tensor,
    out_edge: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v and of the relations' bias (empty where there is none)."""
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    dbias = q.new_zeros(0) if bias is None else torch.zeros_like(bias, memory_format=torch.contiguous_format)
    if dq.numel() == 0:
        return dq, dk, dv, dbias
    grad, out, lse, q, k, v, rowptr, col, relation, out_rowptr, out_target, out_edge, bias = _packed(
        grad, out, lse, q, k, v, rowptr, col, relation, out_rowptr, out_target, out_edge, bias
    )
    with on_device_of(q):
        launch = _Launch(q, col.shape[0], bias)
        delta, dscores = torch.empty_like(lse), None
        if launch.relations:
            dscores = lse.new_empty(launch.heads, launch.edges)
        pieces, more = launch.places(q, launch.D), launch.places(q, launch.D)
        launch.items(
            _backward_targets,
            grad, out, lse, q, k, v, rowptr, col, relation, bias, dq, pieces, delta, dscores,
        )  # fmt: skip
        launch.together(_add_up, pieces, rowptr, dq)
        launch.items(
            _backward_sources,
            grad, lse, delta, q, k, v, out_rowptr, out_target, out_edge, relation, bias, dk, dv, pieces, more,
        )  # fmt: skip
        launch.together(_add_up, pieces, out_rowptr, dk)
        launch.together(_add_up, more, out_rowptr, dv)
        if dscores is not None and launch.edges:
            dbias = _relation_sums(launch, dscores, relation).to(bias.dtype)
    return dq, dk, dv, dbias


def _relation_sums(launch: _Launch, dscores: Tensor, relation: Tensor) -> Tensor:
    """[H, relations], in two stages, so that the sum has one order."""
    chunks, kinds = triton.cdiv(launch.edges, CHUNK), min(64, triton.next_power_of_2(launch.relations))
    sums = dscores.new_empty(chunks, launch.heads, launch.relations)
    _sum_relations[(chunks, launch.heads, triton.cdiv(launch.relations, kinds))](
        dscores, relation, sums, launch.edges, launch.heads, launch.relations,
        CHUNK=CHUNK, EDGES=64, KINDS=kinds, CHECK=checking(), num_warps=4, debug=checking(), **OPTIONS,
    )  # fmt: skip
    return sums.sum(0)
