"""masked_attention once more, by loops over patients, modalities and rows: written apart from the definition,
which is checked against it."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.masked_attention.arguments import Arguments
from robustmdiff.ops.masked_attention.dropout import kept
from robustmdiff.ops.registration import NOTHING, lse_dtype


def masked_attention(a: Arguments) -> tuple[Tensor, Tensor]:
    q, k, v, q_segments, k_segments, affinity, key, scale, exclude_own, dropout_p, bias, softcap, _ = a
    given, dtype = q.dtype, lse_dtype(q.dtype)
    (Tq, H), Hkv, B = q.shape[:2], k.shape[1], len(q_segments)
    # Cast once, so that the gradient is summed in float32 as well.
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    affinity = None if affinity is None else affinity.to(dtype)
    pairs = None if bias is None else bias.to(dtype).expand(B, H, Tq // B, k.shape[0] // B)
    out = [q.new_zeros(q.shape[1:])] * Tq  # one [H, D] a row
    lse = [q.new_full((H,), NOTHING)] * Tq
    for b, (patient_q, patient_k) in enumerate(zip(q_segments.tolist(), k_segments.tolist(), strict=True)):
        for i, (q_start, q_length) in enumerate(patient_q):
            seen = [
                (j, slice(start, start + length))
                for j, (start, length) in enumerate(patient_k)
                if length > 0 and not (exclude_own and i == j)
            ]
            if not seen:
                continue
            keys = torch.cat([k[rows] for _, rows in seen]).repeat_interleave(H // Hkv, 1)
            values = torch.cat([v[rows] for _, rows in seen]).repeat_interleave(H // Hkv, 1)
            columns = torch.cat([torch.arange(rows.start, rows.stop) for _, rows in seen]).to(q.device)
            for row in range(q_start, q_start + q_length):
                scores = torch.einsum("hd,khd->hk", q[row], keys) * scale  # [H, keys]
                if softcap is not None:
                    scores = softcap * (scores / softcap).tanh()
                if affinity is not None:
                    to = [affinity[:, i, j, None].expand(H, rows.stop - rows.start) for j, rows in seen]
                    scores = scores + torch.cat(to, 1)
                if pairs is not None:
                    scores = scores + pairs[b, :, row - b * pairs.shape[2], columns - b * pairs.shape[3]]
                hidden = scores.amax(1, keepdim=True) <= NOTHING / 2  # -inf for every key: none is seen
                scores = scores.masked_fill(hidden, 0)
                lse[row] = scores.logsumexp(1).masked_fill(hidden[:, 0], NOTHING)
                weights = scores.softmax(1).masked_fill(hidden, 0)
                if key is not None:
                    heads = torch.arange(H, device=q.device)[:, None]
                    keep = kept(key, torch.tensor(row, device=q.device), heads, columns, dropout_p)
                    weights = weights * keep / (1 - dropout_p)
                out[row] = torch.einsum("hk,khd->hd", weights, values)
    found = torch.stack(out) if out else q.new_zeros(q.shape)
    found = found + _nothing_of(q, k, v, affinity, bias)
    return found.to(given), torch.stack(lse) if lse else q.new_zeros(q.shape[:2])


def _nothing_of(*tensors: Tensor | None) -> Tensor:
    """0, which has a gradient (of 0) to each tensor though no element of it was read."""
    return sum((x.flatten()[:0].sum() for x in tensors if x is not None), torch.tensor(0.0))
