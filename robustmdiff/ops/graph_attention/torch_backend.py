"""graph_attention in torch: gather along edges, softmax over the in-edges of each node.

Edges are taken in blocks of whole rows, so at most about BLOCK values are gathered at a time (on a
GPU all at once: the blocks would have to be read from rowptr on the host).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robustmdiff.ops.graph_attention.arguments import Arguments
from robustmdiff.ops.graph_attention.graph import check_relation
from robustmdiff.ops.graph_attention.schema import SCHEMA
from robustmdiff.ops.registration import NOTHING, lse_dtype

BLOCK = 2**22


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    rowptr, col = a.rowptr, a.col
    check_relation(a.relation, a.relation_bias)
    H, D = a.q.shape[1:]
    given, dtype = a.q.dtype, lse_dtype(a.q.dtype)
    q, k, v = a.q.to(dtype), a.k.to(dtype), a.v.to(dtype)
    outs, lses = [], []
    for rows, edges in _blocks(rowptr, col, H * D):
        row, pointers = _rows(rowptr, rows, edges)
        scores = _scores(q[rows], k, row, edges, a)
        largest = torch.segment_reduce(scores, "max", offsets=pointers, axis=0, initial=NOTHING)
        p = (scores - largest[row]).exp_()
        total = _sum(p, row, pointers)  # [rows, H], 0 where a node has no in-edge
        value = _sum(p[..., None] * v.index_select(0, col[edges]), row, pointers)
        outs.append(value / total.masked_fill(total == 0, 1)[..., None])
        lses.append((largest + total.log()).clamp_min_(NOTHING))
    return torch.cat(outs).to(given), torch.cat(lses)


def backward(
    grad_out: Tensor, out: Tensor, lse: Tensor, a: Arguments
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rowptr, col, relation, relation_bias = a.rowptr, a.col, a.relation, a.relation_bias
    H, D = a.q.shape[1:]
    given, dtype = a.q.dtype, lse.dtype
    q, k, v, g = a.q.to(dtype), a.k.to(dtype), a.v.to(dtype), grad_out.to(dtype)
    delta = (g * out.to(dtype)).sum(-1)
    ps, dscores, dqs = [], [], []
    for rows, edges in _blocks(rowptr, col, H * D):
        row, pointers = _rows(rowptr, rows, edges)
        source = col[edges]
        p = (_scores(q[rows], k, row, edges, a) - lse[rows][row]).exp_()
        dp = (g[rows].index_select(0, row) * v.index_select(0, source)).sum(-1)
        dscore = p * (dp - delta[rows][row])
        dqs.append(_sum(dscore[..., None] * k.index_select(0, source), row, pointers) * D**-0.5)
        ps.append(p)
        dscores.append(dscore)
    p, dscore = torch.cat(ps), torch.cat(dscores)  # [E, H]

    dks, dvs = [], []
    for rows, edges in _blocks(a.out_rowptr, a.out_target, H * D):
        row, pointers = _rows(a.out_rowptr, rows, edges)
        target, edge = a.out_target[edges], a.out_edge[edges]
        dks.append(_sum(dscore[edge][..., None] * q.index_select(0, target), row, pointers) * D**-0.5)
        dvs.append(_sum(p[edge][..., None] * g.index_select(0, target), row, pointers))

    dbias = q.new_zeros(0)
    if relation_bias is not None and relation is not None:
        of_relation = one_hot(relation, relation_bias.shape[1]).to(dtype)  # [E, relations]
        dbias = (dscore.T @ of_relation).to(relation_bias.dtype)
    return torch.cat(dqs).to(given), torch.cat(dks).to(given), torch.cat(dvs).to(given), dbias


def _blocks(rowptr: Tensor, col: Tensor, width: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of their edges, about BLOCK // width edges each or one longer row."""
    n, E = rowptr.shape[0] - 1, col.shape[0]
    limit = max(1, BLOCK // max(width, 1))
    if limit >= E or rowptr.device.type != "cpu":
        yield slice(0, n), slice(0, E)
        return
    first = 0
    while first < n:
        start = int(rowptr[first])
        last = int(torch.searchsorted(rowptr, start + limit, right=True)) - 1
        last = min(max(last, first + 1), n)
        yield slice(first, last), slice(start, int(rowptr[last]))
        first = last


def _rows(rowptr: Tensor, rows: slice, edges: slice) -> tuple[Tensor, Tensor]:
    """The row of each edge, counted within the block, and the block's own pointers."""
    pointers = rowptr[rows.start : rows.stop + 1] - edges.start
    n = rows.stop - rows.start
    row = torch.arange(n, device=rowptr.device).repeat_interleave(
        pointers.diff(), output_size=edges.stop - edges.start
    )
    return row, pointers


def _scores(q: Tensor, k: Tensor, row: Tensor, edges: slice, a: Arguments) -> Tensor:
    """[edges, H]; q are the queries of the block, row [edges] which of them each edge belongs to."""
    scores = (q.index_select(0, row) * k.index_select(0, a.col[edges])).sum(-1) * q.shape[-1] ** -0.5
    if a.relation_bias is not None and a.relation is not None:
        scores += a.relation_bias.to(q.dtype).T[a.relation[edges]]
    return scores


def _sum(x: Tensor, row: Tensor, pointers: Tensor) -> Tensor:
    """[edges, ...] -> [rows, ...], in one order always; scatter_add_ has that only on the CPU."""
    if x.device.type != "cpu":
        return torch.segment_reduce(x.flatten(1), "sum", offsets=pointers, axis=0, initial=0).unflatten(
            1, x.shape[1:]
        )
    index = row.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
    return x.new_zeros(pointers.shape[0] - 1, *x.shape[1:]).scatter_add_(0, index, x)


forward_op, backward_op, run = SCHEMA.operators("_torch", forward, backward)
