"""What graph_attention means: a loop over nodes, any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.graph_attention.graph import check_relation
from robustmdiff.ops.registration import lse_dtype
from robustmdiff.ops.softmax import softmax


def graph_attention(
    q: Tensor,  # [n, H, D]
    k: Tensor,
    v: Tensor,
    rowptr: Tensor,  # [n + 1]
    col: Tensor,  # [E]
    relation: Tensor | None,  # [E]
    out_rowptr: Tensor,
    out_target: Tensor,
    out_edge: Tensor,
    relation_bias: Tensor | None,  # [H, relations]
) -> tuple[Tensor, Tensor]:
    check_relation(relation, relation_bias)
    given, dtype = q.dtype, lse_dtype(q.dtype)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)  # once, so that gradients are summed in it too
    bias = None if relation_bias is None else relation_bias.to(dtype)
    n, H, D = q.shape
    out = q[:0] + k[:0] + v[:0]  # of no node, but made of what all nodes are made of
    if bias is not None:
        out = out + bias[:, :0].sum()
    outs, lses = [out], [q.new_zeros(0, H)]
    for node in range(n):
        edges = slice(int(rowptr[node]), int(rowptr[node + 1]))
        scores = torch.einsum("hd,ehd->he", q[node], k[col[edges]]) * D**-0.5
        if bias is not None and relation is not None:
            scores = scores + bias[:, relation[edges]]
        weights, lse = softmax(scores)
        outs.append(torch.einsum("he,ehd->hd", weights, v[col[edges]])[None])
        lses.append(lse[None])
    return torch.cat(outs).to(given), torch.cat(lses)
