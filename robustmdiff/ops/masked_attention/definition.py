"""What masked_attention means: dense maths over all pairs (query, key), any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.masked_attention.arguments import Arguments
from robustmdiff.ops.masked_attention.dropout import kept
from robustmdiff.ops.registration import NOTHING, lse_dtype
from robustmdiff.ops.softmax import softmax


def masked_attention(a: Arguments) -> tuple[Tensor, Tensor]:
    """out [Tq, H, D], and the log-sum-exp [Tq, H]. What is never seen counts as 0, whatever it holds."""
    dtype, groups = lse_dtype(a.q.dtype), a.q.shape[1] // a.k.shape[1]
    (b, i), (c, j) = owners(a.q_segments, len(a.q)), owners(a.k_segments, len(a.k))
    seen = (b[:, None] == c) & (c > 0)  # [Tq, Tk]
    if a.exclude_own:
        seen = seen & (i[:, None] != j)
    q = torch.where(seen.any(1)[:, None, None], a.q.to(dtype), 0)
    k, v = (torch.where((c > 0)[:, None, None], x.to(dtype), 0) for x in (a.k, a.v))
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)

    scores = torch.einsum("qhd,khd->hqk", q, k) * a.scale
    if a.softcap is not None:
        scores = a.softcap * (scores / a.softcap).tanh()
    if a.affinity is not None:
        scores = scores + a.affinity.to(dtype)[:, i][:, :, j]
    if a.bias is not None:
        scores = scores + of_pairs(a.bias.to(dtype), len(a.q_segments), *scores.shape)
    weights, lse = softmax(scores.masked_fill(~seen | (scores <= NOTHING / 2), -torch.inf))
    if a.key is not None:
        rows = (torch.arange(n, device=q.device) for n in scores.shape)
        head, q_row, k_row = torch.meshgrid(*rows, indexing="ij")
        weights = weights * kept(a.key, q_row, head, k_row, a.dropout_p) / (1 - a.dropout_p)
    out, lse = torch.einsum("hqk,khd->qhd", weights, v), lse.T
    return out.masked_fill((lse == NOTHING)[..., None], 0).to(a.q.dtype), lse


def owners(segments: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """int64 [rows] each: the patient of a row, counted from 1, 0 outside all segments; and its modality."""
    start, length = segments.long()[..., None].unbind(2)  # [B, M, 1]
    row = torch.arange(rows, device=segments.device)
    inside = (row >= start) & (row < start + length)  # [B, M, rows]
    patients, modalities = (torch.arange(n, device=segments.device)[:, None] for n in segments.shape[:2])
    return (inside.any(1) * (patients + 1)).sum(0), (inside.any(0) * modalities).sum(0)


def of_pairs(bias: Tensor, B: int, H: int, Tq: int, Tk: int) -> Tensor:
    """[1 or B, 1 or H, 1 or Lq, 1 or Lk] -> [H, B Lq, B Lk]: the bias of each pair of rows of one patient."""
    by_patient = bias.expand(B, H, Tq // B, Tk // B)
    return by_patient.transpose(0, 1).flatten(1, 2).repeat(1, 1, B)
