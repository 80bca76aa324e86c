"""masked_attention in torch: gather patients of similar size into buckets, attend, scatter back.

Affinity needs no [Tq, Tk] bias and no gradient of its own: with the rows of affinity[h, i] appended
to the queries and the one-hot modality to the keys, q k^T holds the bias already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from robustmdiff.ops.masked_attention.plan import Bucket, plan
from robustmdiff.ops.masked_attention.schema import NOTHING, TENSORS, WRT, declare, lse_dtype
from robustmdiff.ops.registration import differentiable, implement

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    out = q.new_zeros(q.shape)
    lse = q.new_full(q.shape[:2], NOTHING, dtype=lse_dtype(q.dtype))
    for bucket in plan(q_segments, k_segments, q.shape[0], k.shape[0], exclude_own, q.device):
        operands = _operands(bucket, q, k, v, affinity, scale)
        o, m = _attend(*operands, _bias(bucket, operands))
        bucket.q.scatter(_heads_apart(o, q.shape[1], q.shape[2]).to(out.dtype), out)
        bucket.q.scatter(_heads_apart(m[..., None], q.shape[1], 1)[..., 0], lse)
    return out, lse


def backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (H, D), Hkv = q.shape[1:], k.shape[1]
    dq, dk, dv = q.new_zeros(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)
    daffinity = q.new_zeros(0) if affinity is None else torch.zeros_like(affinity)
    for bucket in plan(q_segments, k_segments, q.shape[0], k.shape[0], exclude_own, q.device):
        operands = _operands(bucket, q, k, v, affinity, scale)
        extra = operands[0].shape[-1] - D
        g = bucket.q.gather(grad_out).to(lse.dtype)
        if bucket.q.padding is not None:  # padded rows repeat a real one; nothing may come of them
            g.transpose(1, 2).flatten(0, 1).index_fill_(0, bucket.q.padding, 0)
        o = bucket.q.gather(out).to(lse.dtype)
        g, o = (_heads_together(pad(x, (0, extra)) if extra else x, Hkv) for x in (g, o))
        m = _heads_together(bucket.q.gather(lse[..., None]), Hkv)[..., 0]
        gq, gk, gv = _attend_backward(g, *operands, o, m, _bias(bucket, operands))
        gq = _heads_apart(gq, H, gq.shape[-1])
        bucket.q.scatter((gq[..., :D] * scale).to(q.dtype), dq)
        bucket.k.scatter(gk[..., :D].to(k.dtype), dk)
        bucket.k.scatter(gv[..., :D].to(v.dtype), dv)
        if affinity is not None:
            of_modality = one_hot(bucket.q.modality, affinity.shape[1]).to(gq.dtype)  # [n * Lq, Mq]
            rows = gq[..., D:].transpose(1, 2).flatten(0, 1)  # [n * Lq, H, M]
            daffinity += torch.einsum("ri,rhj->hij", of_modality, rows).to(affinity.dtype)
    return dq, dk, dv, daffinity


def _operands(
    bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries [n, Hkv, groups * Lq, D'], keys and values [n, Hkv, Lk, D'], float32 or float64."""
    dtype = lse_dtype(q.dtype)
    q_b = bucket.q.gather(q).to(dtype) * scale
    k_b, v_b = bucket.k.gather(k).to(dtype), bucket.k.gather(v).to(dtype)
    if affinity is not None:
        n, _, Lk, _ = k_b.shape
        M = affinity.shape[2]
        own = affinity.to(dtype)[:, bucket.q.modality].unflatten(1, (n, bucket.q.L)).transpose(0, 1)
        is_modality = one_hot(bucket.k.modality, M).to(dtype).view(n, 1, Lk, M).expand(-1, k.shape[1], -1, -1)
        q_b, k_b, v_b = torch.cat([q_b, own], -1), torch.cat([k_b, is_modality], -1), pad(v_b, (0, M))
    return _heads_together(q_b, k.shape[1]), k_b, v_b


def _bias(bucket: Bucket, operands: tuple[Tensor, Tensor, Tensor]) -> Tensor | None:
    if bucket.hidden is None:
        return None
    q, k, _ = operands
    groups = q.shape[2] // bucket.q.L
    bias = torch.zeros_like(bucket.hidden, dtype=q.dtype).masked_fill_(bucket.hidden, -torch.inf)
    if bias.shape[2] > 1 and groups > 1:
        bias = bias.repeat(1, 1, groups, 1)
    return bias.expand(-1, -1, q.shape[2], -1)


def _heads_together(x: Tensor, Hkv: int) -> Tensor:
    """[n, H, L, D] -> [n, Hkv, groups * L, D]: the queries that share keys, as rows of one product."""
    return x if x.shape[1] == Hkv else x.unflatten(1, (Hkv, -1)).flatten(2, 3)


def _heads_apart(x: Tensor, H: int, D: int) -> Tensor:
    """[n, Hkv, groups * L, D' >= D] -> [n, H, L, D]"""
    x = x if x.shape[1] == H else x.unflatten(2, (H // x.shape[1], -1)).flatten(1, 2)
    return x[..., :D]


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu":
        return _fused(q, k, v, 0.0, False, attn_mask=bias, scale=1.0)
    scores = _scores(q, k, bias)
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp() @ v, lse


def _attend_backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bias: Tensor | None
) -> Any:
    if q.device.type == "cpu":
        return _fused_backward(g, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=1.0)
    p = (_scores(q, k, bias) - lse[..., None]).exp()
    dscores = p * (g @ v.mT - (g * out).sum(-1, keepdim=True))
    return dscores @ k, dscores.mT @ q, p.mT @ g


def _scores(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    scores = q @ k.mT
    return scores if bias is None else scores + bias


forward_op, backward_op = declare("_torch")
implement("masked_attention_fwd_torch", forward)
implement("masked_attention_bwd_torch", backward)
run = differentiable(forward_op, backward_op, TENSORS, WRT)
