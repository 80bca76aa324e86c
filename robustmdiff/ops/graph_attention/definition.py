"""What graph_attention means: a loop over nodes, any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.registration import NOTHING, lse_dtype


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
    n, H, D = q.shape
    dtype = lse_dtype(q.dtype)
    out, lse = [], []
    for node in range(n):
        edges = slice(int(rowptr[node]), int(rowptr[node + 1]))
        sources = col[edges]
        if len(sources) == 0:
            out.append(q.new_zeros(H, D))
            lse.append(q.new_full((H,), NOTHING, dtype=dtype))
            continue
        scores = torch.einsum("hd,ehd->he", q[node].to(dtype), k[sources].to(dtype)) * D**-0.5
        if relation_bias is not None and relation is not None:
            scores = scores + relation_bias[:, relation[edges]].to(dtype)
        out.append(torch.einsum("he,ehd->hd", scores.softmax(1), v[sources].to(dtype)).to(q.dtype))
        lse.append(scores.logsumexp(1))
    return torch.stack(out), torch.stack(lse)
