"""knowledge_attention in torch: its fused attention, or blocks of queries times chunks of concepts, softmax
combined online.

No array is larger than BLOCK scores, however many queries and concepts there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustmdiff.ops.knowledge_attention.absent import absent_concepts
from robustmdiff.ops.knowledge_attention.arguments import Arguments
from robustmdiff.ops.knowledge_attention.schema import SCHEMA, top_operator
from robustmdiff.ops.registration import NOTHING, implement, lse_dtype

BLOCK = 2**20  # scores held at a time
ROWS = 1024  # query rows of a block


_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    q, log_prior = a.q, a.log_prior
    absent = absent_concepts(log_prior)
    queries = q.to(lse_dtype(q.dtype)).flatten(0, 1)  # [N * H, d]
    whole = q.is_cpu and q.numel() and absent is None
    out, lse = _in_one(queries, a) if whole else _in_blocks(queries, a, absent)
    return out.to(q.dtype).view(q.shape), lse.view(q.shape[:2])


def _in_one(queries: Tensor, a: Arguments) -> tuple[Tensor, Tensor]:
    """By torch's fused attention, which reads past strides; no concept is absent."""
    K = a.concepts.to(queries.dtype).contiguous()[None, None]
    bias = None if a.log_prior is None else a.log_prior.to(queries.dtype)[None, None, None]
    rows = queries.contiguous()[None, None]
    out, lse = _fused(rows, K, K, 0.0, False, attn_mask=bias, scale=a.scale)
    return out, lse


def _in_blocks(queries: Tensor, a: Arguments, absent: Tensor | None) -> tuple[Tensor, Tensor]:
    outs, lses = [], []
    for q_b in queries.split(ROWS):
        out: Tensor | None = None
        for rows, K in _chunks(a.concepts, absent, len(q_b), queries.dtype):
            scores = _scores(q_b, K, a.log_prior, rows, a.scale)
            chunk_lse = scores.logsumexp(-1, keepdim=True).clamp_min_(NOTHING)
            chunk_out = scores.sub_(chunk_lse).exp_() @ K
            if out is None:
                out, lse = chunk_out, chunk_lse
            else:
                total = torch.logaddexp(lse, chunk_lse)
                out.mul_((lse - total).exp_()).addcmul_(chunk_out, (chunk_lse - total).exp_())
                lse = total
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses)  # type: ignore[arg-type]


def backward(grad_out: Tensor, out: Tensor, lse: Tensor, a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    q, concepts, log_prior, scale = a.q, a.concepts, a.log_prior, a.scale
    absent = absent_concepts(log_prior)
    dtype = lse.dtype
    queries, grads = q.to(dtype).flatten(0, 1), grad_out.to(dtype).flatten(0, 1)
    if absent is not None:  # a row that saw nothing does not look at its gradient
        grads = grads.masked_fill(lse.flatten()[:, None] <= NOTHING, 0)
    delta = (grads * out.to(dtype).flatten(0, 1)).sum(-1, keepdim=True)
    lse = lse.flatten()[:, None]
    dq = torch.zeros_like(queries)
    dK = concepts.new_zeros(concepts.shape, dtype=dtype)
    dprior = None if log_prior is None else log_prior.new_zeros(log_prior.shape, dtype=dtype)
    for start in range(0, len(queries), ROWS):
        block = slice(start, start + ROWS)
        q_b, g_b = queries[block], grads[block]
        for rows, K in _chunks(concepts, absent, len(q_b), dtype):
            p = _scores(q_b, K, log_prior, rows, scale).sub_(lse[block]).exp_()
            dscores = (g_b @ K.T).sub_(delta[block]).mul_(p)
            dq[block].addmm_(dscores, K, alpha=scale)
            dK[rows].addmm_(p.T, g_b).addmm_(dscores.T, q_b, alpha=scale)
            if dprior is not None:
                dprior[rows] += dscores.sum(0)
    dprior = q.new_zeros(0) if dprior is None or log_prior is None else dprior.to(log_prior.dtype)
    return dq.to(q.dtype).view(q.shape), dK.to(concepts.dtype), dprior


def top(a: Arguments) -> tuple[Tensor, Tensor]:
    q, log_prior, n = a.q, a.log_prior, a.n
    absent = absent_concepts(log_prior)
    indices, weights = [], []
    for q_b in q.to(lse_dtype(q.dtype)).flatten(0, 1).split(ROWS):
        index = torch.zeros(len(q_b), 0, dtype=torch.int64, device=q.device)
        score, lse = q_b.new_zeros(len(q_b), 0), q_b.new_full((len(q_b), 1), NOTHING)
        for rows, K in _chunks(a.concepts, absent, len(q_b), q_b.dtype):
            scores = _scores(q_b, K, log_prior, rows, a.scale)
            lse = torch.logaddexp(lse, scores.logsumexp(-1, keepdim=True))
            best, where = scores.topk(min(n, scores.shape[1]))
            score, keep = torch.cat([score, best], 1).topk(min(n, score.shape[1] + best.shape[1]))
            index = torch.cat([index, where + rows.start], 1).gather(1, keep)
        indices.append(index)
        weights.append((score - lse).exp_())
    return torch.cat(indices).view(*q.shape[:2], n), torch.cat(weights).view(*q.shape[:2], n)


def _chunks(
    concepts: Tensor, absent: Tensor | None, rows: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of the concepts, absent ones zeroed so that what they hold is never used."""
    size = max(512, BLOCK // max(rows, 1))
    for start in range(0, len(concepts), size):
        chunk = slice(start, min(start + size, len(concepts)))
        K = concepts[chunk].to(dtype)
        yield chunk, K if absent is None else K.masked_fill(absent[chunk, None], 0)


def _scores(q: Tensor, K: Tensor, log_prior: Tensor | None, rows: slice, scale: float) -> Tensor:
    if log_prior is None:
        return (q @ K.T).mul_(scale)
    return torch.addmm(log_prior[rows].to(q.dtype), q, K.T, alpha=scale)


forward_op, backward_op, run = SCHEMA.operators("_torch", forward, backward)
top_op = top_operator("_torch")
implement("knowledge_top_torch", lambda *inputs: top(Arguments(*inputs)))


def run_top(a: Arguments) -> tuple[Tensor, Tensor]:
    return top_op(*a)
