"""masked_attention in torch: gather patients of similar size into buckets, attend, scatter back.

Affinity needs no [Tq, Tk] bias and no gradient of its own: with the rows of affinity[h, i] appended
to the queries and the one-hot modality to the keys, q k^T holds the bias already.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from robustmdiff.ops.masked_attention.arguments import Arguments
from robustmdiff.ops.masked_attention.dropout import kept
from robustmdiff.ops.masked_attention.plan import Bucket, Plan, plan
from robustmdiff.ops.masked_attention.schema import PLAIN
from robustmdiff.ops.registration import NOTHING, lse_dtype

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    q, k, affinity = a.q, a.k, a.affinity
    layout = plan(a.q_segments, a.k_segments, q.shape[0], k.shape[0], a.exclude_own, q.device)
    H, D = q.shape[1:]
    if not layout.buckets:
        return q.new_zeros(q.shape), q.new_full((q.shape[0], H), NOTHING, dtype=lse_dtype(q.dtype))
    operands = _operands(layout, a)
    outs, lses = [], []
    for bucket in layout.buckets:
        keep = _keep(layout, bucket, a, operands[0].dtype)
        o, m = _attend(*_in_bucket(bucket, *operands), _bias(bucket, operands), _scale(a), keep)
        if affinity is not None:
            hidden = m <= NOTHING / 2  # -inf to every modality that is present: no key is seen
            o, m = o[..., :D].masked_fill(hidden[..., None], 0), m.masked_fill(hidden, NOTHING)
        outs.append(_slots(o, H).to(q.dtype))
        lses.append(_slots(m[..., None], H)[..., 0])
    Tq = q.shape[0]
    return layout.q.scatter(outs, Tq), layout.q.scatter(lses, Tq, NOTHING)


def backward(
    grad_out: Tensor, out: Tensor, lse: Tensor, a: Arguments
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, affinity = a.q, a.k, a.v, a.affinity
    layout = plan(a.q_segments, a.k_segments, q.shape[0], k.shape[0], a.exclude_own, q.device)
    (H, D), Hkv = q.shape[1:], k.shape[1]
    daffinity = q.new_zeros(0) if affinity is None else torch.zeros_like(affinity)
    if not layout.buckets:
        return q.new_zeros(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape), daffinity
    operands = _operands(layout, a)
    extra = operands[0].shape[-1] - D
    g, o = layout.q.gather(grad_out).to(lse.dtype), layout.q.gather(out).to(lse.dtype)
    if layout.q.padding is not None:  # a padded slot repeats a real row; nothing may come of it
        g.index_fill_(0, layout.q.padding, 0)
    m = layout.q.gather(lse[..., None])
    if extra:
        g = pad(g.masked_fill(m == NOTHING, 0), (0, extra))  # nor of a row that sees no key
        o = pad(o, (0, extra))
    dqs, dks, dvs = [], [], []
    for bucket in layout.buckets:
        g_b, o_b, m_b = (_heads_together(bucket.of_q(x), Hkv) for x in (g, o, m))
        dq, dk, dv = _attend_backward(
            g_b,
            *_in_bucket(bucket, *operands),
            o_b,
            m_b[..., 0],
            _bias(bucket, operands),
            _scale(a),
            _keep(layout, bucket, a, lse.dtype),
        )
        dq = _slots(dq, H)
        if affinity is not None:
            of_modality = one_hot(layout.q.modality[bucket.q], affinity.shape[1]).to(dq.dtype)  # [slots, Mq]
            daffinity += torch.einsum("si,shj->hij", of_modality, dq[..., D:]).to(affinity.dtype)
            dq = dq[..., :D] * a.scale
            dk, dv = dk[..., :D], dv[..., :D]
        dqs.append(dq.to(q.dtype))
        dks.append(_slots(dk, Hkv).to(k.dtype))
        dvs.append(_slots(dv, Hkv).to(v.dtype))
    Tq, Tk = q.shape[0], k.shape[0]
    return layout.q.scatter(dqs, Tq), layout.k.scatter(dks, Tk), layout.k.scatter(dvs, Tk), daffinity


def _operands(layout: Plan, a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """q [slots, H, D'], k and v [slots, Hkv, D'], float32 or float64; with affinity D' = D + M and
    the scale is in q."""
    dtype = lse_dtype(a.q.dtype)
    q, k, v = layout.q.gather(a.q).to(dtype), layout.k.gather(a.k).to(dtype), layout.k.gather(a.v).to(dtype)
    if a.affinity is None:
        return q, k, v
    M = a.affinity.shape[2]
    finite = a.affinity.to(dtype).clamp(min=NOTHING)  # 0 in the one-hot times -inf is NaN
    to_modality = finite.transpose(0, 1)[layout.q.modality]  # [slots, H, M]
    is_modality = one_hot(layout.k.modality, M).to(dtype)[:, None].expand(-1, k.shape[1], -1)
    return torch.cat([q * a.scale, to_modality], -1), torch.cat([k, is_modality], -1), pad(v, (0, M))


def _scale(a: Arguments) -> float:
    return a.scale if a.affinity is None else 1.0


def _in_bucket(bucket: Bucket, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [n, Hkv, groups * Lq, D'], k and v [n, Hkv, Lk, D']"""
    return _heads_together(bucket.of_q(q), k.shape[1]), bucket.of_k(k), bucket.of_k(v)


def _bias(bucket: Bucket, operands: tuple[Tensor, Tensor, Tensor]) -> Tensor | None:
    """[n, 1, groups * Lq, Lk]"""
    if bucket.bias is None:
        return None
    q, k, _ = operands
    groups = q.shape[1] // k.shape[1]
    bias = bucket.bias.to(q.dtype)
    if bias.shape[2] > 1 and groups > 1:
        bias = bias.repeat(1, 1, groups, 1)
    return bias.expand(-1, -1, groups * bucket.Lq, -1)


def _heads_together(x: Tensor, Hkv: int) -> Tensor:
    """[n, H, L, D] -> [n, Hkv, groups * L, D]: the queries that share keys, as rows of one product."""
    return x if x.shape[1] == Hkv else x.unflatten(1, (Hkv, -1)).flatten(2, 3)


def _slots(x: Tensor, H: int) -> Tensor:
    """[n, Hkv, groups * L, D] -> [n * L, H, D]"""
    x = x if x.shape[1] == H else x.unflatten(2, (H // x.shape[1], -1)).flatten(1, 2)
    n, _, L, D = x.shape
    return x.transpose(1, 2).reshape(n * L, H, D)


def _keep(layout: Plan, bucket: Bucket, a: Arguments, dtype: torch.dtype) -> Tensor | None:
    """Dropout's factor on the weights, 0 or 1 / (1 - p): [n, Hkv, groups * Lq, Lk]"""
    if a.key is None:
        return None
    q_row = layout.q.rows()[bucket.q].view(bucket.n, 1, -1, 1)
    k_row = layout.k.rows()[bucket.k].view(bucket.n, 1, 1, -1)
    head = torch.arange(a.q.shape[1], device=a.key.device).view(1, -1, 1, 1)
    keep = kept(a.key, q_row, head, k_row, a.dropout_p).to(dtype) / (1 - a.dropout_p)
    return _heads_together(keep, a.k.shape[1])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu" and keep is None:
        return _fused(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
    scores = _scores(q, k, bias, scale)
    lse = scores.logsumexp(-1)
    p = (scores - lse[..., None]).exp()
    return (p if keep is None else p * keep) @ v, lse


def _attend_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    scale: float,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if q.device.type == "cpu" and keep is None:
        return _fused_backward(g, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=scale)
    p = (_scores(q, k, bias, scale) - lse[..., None]).exp()
    dp = g @ v.mT
    if keep is not None:
        dp *= keep
    dscores = p * (dp - (g * out).sum(-1, keepdim=True)) * scale
    return dscores @ k, dscores.mT @ q, (p if keep is None else p * keep).mT @ g


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    scores = q @ k.mT * scale
    return scores if bias is None else scores + bias


forward_op, backward_op, run = PLAIN.operators("_torch", forward, backward)
