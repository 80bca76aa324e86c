"""masked_attention in torch where scores change one by one: a bias for each pair of rows, a soft cap.

The layout is that of the torch backend. The scores of a few patients are held at a time, and the
backward pass makes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robustmdiff.ops.masked_attention.arguments import Arguments
from robustmdiff.ops.masked_attention.dropout import kept
from robustmdiff.ops.masked_attention.plan import Bucket, Plan, Rows, plan
from robustmdiff.ops.masked_attention.schema import BIASED
from robustmdiff.ops.masked_attention.segments import check_own_rows
from robustmdiff.ops.registration import NOTHING, lse_dtype

BLOCK = 2**23  # scores held at once, but for the last patient's


class Part(NamedTuple):
    """Some patients of a bucket: q [n, H, Lq, D], k and v [n, Hkv, Lk, D] in the dtype of the sums, what
    is added to their scores, [n, 1 or H, Lq, Lk] of finite numbers, and dropout's factor on the weights."""

    bucket: Bucket
    q: Tensor
    k: Tensor
    v: Tensor
    added: Tensor
    keep: Tensor | None


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    q = a.q
    layout = _layout(a)
    if not layout.buckets:
        return q.new_zeros(q.shape), q.new_full(q.shape[:2], NOTHING, dtype=lse_dtype(q.dtype))
    outs, lses = [], []
    for part in _parts(layout, a):
        scores, _ = _scores(part, a)
        lse = scores.logsumexp(-1)
        p = (scores - lse[..., None]).exp_()
        hidden = lse <= NOTHING / 2  # -inf was added to every key: none is seen
        out = _by_query(p if part.keep is None else p * part.keep, part.v)
        outs.append(_slots(out.masked_fill(hidden[..., None], 0)).to(q.dtype))
        lses.append(_slots(lse.masked_fill(hidden, NOTHING)[..., None])[..., 0])
    return layout.q.scatter(outs, len(q)), layout.q.scatter(lses, len(q), NOTHING)


def backward(
    grad_out: Tensor, out: Tensor, lse: Tensor, a: Arguments
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, affinity, bias = a.q, a.k, a.v, a.affinity, a.bias
    layout = _layout(a)
    dtype, B = lse.dtype, len(a.q_segments)
    daffinity = q.new_zeros(0) if affinity is None else affinity.new_zeros(affinity.shape, dtype=dtype)
    Lq, Lk = len(q) // B, len(k) // B
    dbias = q.new_zeros(0) if bias is None else _no_bias_gradient(bias, Lq, Lk, dtype)
    if layout.buckets:
        g, o = layout.q.gather(grad_out).to(dtype), layout.q.gather(out).to(dtype)
        m = layout.q.gather(lse)
        nothing = m == NOTHING  # rows that see no key; nothing may come of what is in g there
        if layout.q.padding is not None:  # nor of a padded slot, which repeats a real row
            nothing.index_fill_(0, layout.q.padding, True)
        g.masked_fill_(nothing[..., None], 0)
    dqs, dks, dvs = [], [], []
    for part in _parts(layout, a):
        g_b, o_b, m_b = (part.bucket.of_q(x) for x in (g, o, m[..., None]))
        scores, slope = _scores(part, a)
        p = (scores - m_b).exp_()
        dp = _by_query(g_b, part.v.mT)
        if part.keep is not None:
            dp *= part.keep
        dscores = p * (dp - (g_b * o_b).sum(-1, keepdim=True))
        if affinity is not None:
            of_q, of_k = _modalities(layout, part.bucket, affinity, dtype)
            daffinity += torch.einsum("nhqk,nqi,nkj->hij", dscores, of_q, of_k)
        if bias is not None:
            _add_bias_gradient(dbias, dscores, layout, part.bucket, Lq, Lk)
        if slope is not None:
            dscores *= slope
        dqs.append(_slots(_by_query(dscores, part.k) * a.scale).to(q.dtype))
        dks.append(_slots(_by_key(dscores, part.q, k.shape[1]) * a.scale).to(k.dtype))
        dvs.append(_slots(_by_key(p if part.keep is None else p * part.keep, g_b, k.shape[1])).to(v.dtype))
    if bias is not None:
        dbias = dbias[:, :, : bias.shape[2], : bias.shape[3]].to(bias.dtype).contiguous()
    return (
        layout.q.scatter(dqs, len(q)) if dqs else q.new_zeros(q.shape),
        layout.k.scatter(dks, len(k)) if dks else k.new_zeros(k.shape),
        layout.k.scatter(dvs, len(k)) if dvs else v.new_zeros(v.shape),
        daffinity if affinity is None else daffinity.to(affinity.dtype),
        dbias,
    )


def _layout(a: Arguments) -> Plan:
    layout = plan(a.q_segments, a.k_segments, len(a.q), len(a.k), a.exclude_own, a.q.device)
    if a.bias is not None:
        check_own_rows("q_segments", a.q_segments.cpu().numpy(), len(a.q))
        check_own_rows("k_segments", a.k_segments.cpu().numpy(), len(a.k))
    return layout


def _parts(layout: Plan, a: Arguments) -> Iterator[Part]:
    dtype, H, B = lse_dtype(a.q.dtype), a.q.shape[1], len(a.q_segments)
    q, k, v = layout.q.gather(a.q).to(dtype), layout.k.gather(a.k).to(dtype), layout.k.gather(a.v).to(dtype)
    for whole in layout.buckets:
        for bucket in whole.split(max(1, BLOCK // (H * whole.Lq * whole.Lk))):
            added = q.new_zeros(bucket.n, 1, bucket.Lq, bucket.Lk)
            if bucket.bias is not None:
                added = added + bucket.bias.to(dtype)
            if a.affinity is not None:
                of_q, of_k = _modalities(layout, bucket, a.affinity, dtype)
                finite = a.affinity.to(dtype).clamp(min=NOTHING)
                added = added + torch.einsum("nqi,hij,nkj->nhqk", of_q, finite, of_k)
            if a.bias is not None:
                added = added + _bias(layout, bucket, a.bias, len(a.q) // B, len(a.k) // B).to(dtype)
            keep = None if a.key is None else _keep(layout, bucket, H, a.key, a.dropout_p, dtype)
            qkv = bucket.of_q(q), bucket.of_k(k), bucket.of_k(v)
            yield Part(bucket, *qkv, added.clamp_(min=NOTHING), keep)


def _scores(part: Part, a: Arguments) -> tuple[Tensor, Tensor | None]:
    """[n, H, Lq, Lk], and the derivative of the cap where there is one"""
    scores = _by_query(part.q, part.k.mT) * a.scale
    if a.softcap is None:
        return scores + part.added, None
    share = scores.div_(a.softcap).tanh_()
    return share * a.softcap + part.added, 1 - share * share


def _by_query(x: Tensor, y: Tensor) -> Tensor:
    """x [n, H, Lq, a] @ y [n, Hkv, a, c] -> [n, H, Lq, c]: heads of y are shared."""
    n, Hkv = y.shape[:2]
    return (x.reshape(n, Hkv, -1, x.shape[-1]) @ y).view(*x.shape[:3], y.shape[-1])


def _by_key(x: Tensor, y: Tensor, Hkv: int) -> Tensor:
    """x [n, H, Lq, Lk], y [n, H, Lq, c] -> [n, Hkv, Lk, c]: summed over the queries that share a head."""
    x, y = (z.reshape(len(z), Hkv, -1, z.shape[-1]) for z in (x, y))
    return x.mT @ y


def _slots(x: Tensor) -> Tensor:
    """[n, H, L, D] -> [n * L, H, D]"""
    return x.transpose(1, 2).flatten(0, 1)


def _modalities(layout: Plan, bucket: Bucket, affinity: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One-hot: [n, Lq, Mq] and [n, Lk, M]"""
    Mq, M = affinity.shape[1:]
    of_q, of_k = layout.q.modality[bucket.q], layout.k.modality[bucket.k]
    return one_hot(of_q.view(bucket.n, -1), Mq).to(dtype), one_hot(of_k.view(bucket.n, -1), M).to(dtype)


def _keep(layout: Plan, bucket: Bucket, H: int, key: Tensor, dropout_p: float, dtype: torch.dtype) -> Tensor:
    """Dropout's factor on the weights, 0 or 1 / (1 - p): [n, H, Lq, Lk]"""
    q_row = layout.q.rows()[bucket.q].view(bucket.n, 1, -1, 1)
    k_row = layout.k.rows()[bucket.k].view(bucket.n, 1, 1, -1)
    head = torch.arange(H, device=key.device).view(1, H, 1, 1)
    return kept(key, q_row, head, k_row, dropout_p).to(dtype) / (1 - dropout_p)


def _places(rows: Rows, slots: slice, patients: tuple[int, ...], L: int) -> tuple[Tensor, Tensor]:
    """int64 [n, Lq]: where in the L padded tokens of its patient the row of each slot lies, to read from and
    to write to. Padding repeats a row, and is written behind the end."""
    row = rows.rows()[slots].view(len(patients), -1)
    place = row % L
    if rows.to is None or rows.padding is None:
        return place, place
    return place, place.masked_fill(rows.to[slots].view_as(row) != row, L)


def _bias(layout: Plan, bucket: Bucket, bias: Tensor, Lq: int, Lk: int) -> Tensor:
    """[n, 1 or H, Lq', Lk']: the bias of each pair of slots"""
    q_place, _ = _places(layout.q, bucket.q, bucket.patients, Lq)
    k_place, _ = _places(layout.k, bucket.k, bucket.patients, Lk)
    of = bias.expand(-1, -1, Lq, Lk)
    patients = bucket.patients if len(bias) > 1 else (0,) * bucket.n
    return torch.stack(
        [
            of[b].index_select(1, i).index_select(2, j)
            for b, i, j in zip(patients, q_place, k_place, strict=True)
        ]
    )


def _no_bias_gradient(bias: Tensor, Lq: int, Lk: int, dtype: torch.dtype) -> Tensor:
    """Zeros to add to: the shape of bias, with a row and a column behind the end, where padding goes."""
    rows, columns = (
        length if length == 1 else L + 1 for length, L in zip(bias.shape[2:], (Lq, Lk), strict=True)
    )
    return bias.new_zeros(*bias.shape[:2], rows, columns, dtype=dtype)


def _add_bias_gradient(
    total: Tensor, dscores: Tensor, layout: Plan, bucket: Bucket, Lq: int, Lk: int
) -> None:
    """Adds dscores [n, H, Lq', Lk'], summed over the axes that the bias shares. A patient at a time: so no
    place but that behind the end is met twice, and the order of the sums is fixed."""
    _, q_place = _places(layout.q, bucket.q, bucket.patients, Lq)
    _, k_place = _places(layout.k, bucket.k, bucket.patients, Lk)
    if total.shape[1] == 1:
        dscores = dscores.sum(1, keepdim=True)
    if total.shape[2] == 1:
        dscores, q_place = dscores.sum(2, keepdim=True), torch.zeros_like(q_place[:, :1])
    if total.shape[3] == 1:
        dscores, k_place = dscores.sum(3, keepdim=True), torch.zeros_like(k_place[:, :1])
    patients = bucket.patients if len(total) > 1 else (0,) * bucket.n
    for b, i, j, d in zip(patients, q_place, k_place, dscores, strict=True):
        total[b][:, i[:, None], j] += d


forward_op, backward_op, run = BIASED.operators("_torch", forward, backward)
