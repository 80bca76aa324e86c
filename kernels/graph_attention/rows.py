"""What the kernels of graph attention share: the items of a program, and the pieces of a long row."""

import triton
import triton.language as tl

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
def _pieces_of(tile, rowptr, nodes, edges, steps, SPLIT: tl.constexpr):
    """The long row that starts in this tile, the place of its first piece, their number (0: none does)."""
    last = (tile + 1) * SPLIT - 1  # a long row that starts in a tile goes past its end
    row = _row_of(rowptr, tl.minimum(last, edges - 1), nodes, steps)
    start, stop = _ends(rowptr, row, last < edges, edges)
    mine = (stop - start > SPLIT) & (start // SPLIT == tile)
    return row, 2 * tile + (start > tile * SPLIT), tl.where(mine, (stop - start + SPLIT - 1) // SPLIT, 0)
