"""What graph_attention means: a loop over nodes, any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.graph_attention.arguments import Arguments
from robustmdiff.ops.graph_attention.graph import check_relation
from robustmdiff.ops.registration import lse_dtype
from robustmdiff.ops.softmax import softmax


def graph_attention(a: Arguments) -> tuple[Tensor, Tensor]:
    check_relation(a.relation, a.relation_bias)
    given, dtype = a.q.dtype, lse_dtype(a.q.dtype)
    q, k, v = a.q.to(dtype), a.k.to(dtype), a.v.to(dtype)  # once, so that gradients are summed in it too
    bias = None if a.relation_bias is None else a.relation_bias.to(dtype)
    n, H, D = q.shape
    out = q[:0] + k[:0] + v[:0]  # of no node, but made of what all nodes are made of
    if bias is not None:
        out = out + bias[:, :0].sum()
    outs, lses = [out], [q.new_zeros(0, H)]
    for node in range(n):
        edges = slice(int(a.rowptr[node]), int(a.rowptr[node + 1]))
        scores = torch.einsum("hd,ehd->he", q[node], k[a.col[edges]]) * D**-0.5
        if bias is not None and a.relation is not None:
            scores = scores + bias[:, a.relation[edges]]
        weights, lse = softmax(scores)
        outs.append(torch.einsum("he,ehd->hd", weights, v[a.col[edges]])[None])
        lses.append(lse[None])
    return torch.cat(outs).to(given), torch.cat(lses)
