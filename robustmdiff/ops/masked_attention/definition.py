"""What masked_attention means: plain loops over patients and modalities, any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops.masked_attention.dropout import kept
from robustmdiff.ops.registration import NOTHING, lse_dtype


def masked_attention(
    q: Tensor,  # [Tq, H, D]
    k: Tensor,  # [Tk, Hkv, D]
    v: Tensor,  # [Tk, Hkv, D]
    q_segments: Tensor,  # [B, Mq, 2]
    k_segments: Tensor,  # [B, M, 2]
    affinity: Tensor | None,  # [H, Mq, M]
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    H, Hkv = q.shape[1], k.shape[1]
    dtype = lse_dtype(q.dtype)
    out = [q.new_zeros(q.shape[1:])] * q.shape[0]  # one [H, D] a row
    lse = [q.new_full((H,), NOTHING, dtype=dtype)] * q.shape[0]
    for patient_q, patient_k in zip(q_segments.tolist(), k_segments.tolist(), strict=True):
        for i, (q_start, q_length) in enumerate(patient_q):
            seen = [
                (j, slice(start, start + length))
                for j, (start, length) in enumerate(patient_k)
                if length > 0 and not (exclude_own and i == j)
            ]
            if not seen:
                continue
            keys = torch.cat([k[rows] for _, rows in seen]).to(dtype).repeat_interleave(H // Hkv, 1)
            values = torch.cat([v[rows] for _, rows in seen]).to(dtype).repeat_interleave(H // Hkv, 1)
            for row in range(q_start, q_start + q_length):
                scores = torch.einsum("hd,khd->hk", q[row].to(dtype), keys) * scale  # [H, keys]
                if affinity is not None:
                    bias = [affinity[:, i, j, None].expand(H, rows.stop - rows.start) for j, rows in seen]
                    scores = scores + torch.cat(bias, 1).to(dtype)
                lse[row] = scores.logsumexp(1)
                weights = scores.softmax(1)
                if key is not None:
                    columns = torch.cat([torch.arange(rows.start, rows.stop) for _, rows in seen]).to(
                        q.device
                    )
                    heads = torch.arange(H, device=q.device)[:, None]
                    keep = kept(key, torch.tensor(row, device=q.device), heads, columns, dropout_p)
                    weights = weights * keep / (1 - dropout_p)
                out[row] = torch.einsum("hk,khd->hd", weights, values).to(q.dtype)
    if not out:
        return q.new_zeros(q.shape), q.new_zeros(q.shape[:2], dtype=dtype)
    return torch.stack(out), torch.stack(lse)
