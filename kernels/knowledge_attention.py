"""knowledge_attention in Triton: each concept is read once, as key and as value.

The concepts are cut into splits whose size depends on their number alone, a program takes a tile of rows
and a split, and a second kernel joins the splits in order: a row's bits do not depend on the other rows.
A concept whose log prior is -inf is masked out of the load, so it is never read.

Softmax and sums are float32. Where the inputs are 16 bits wide the weights are rounded to that width
before they meet the concepts again, as tensor cores need. No atomics; no array of rows x concepts.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustmdiff.kernels.launch import INTERPRETED, OPTIONS, Config, of_architecture, on_device_of

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)

SPLITS = 128  # of the concepts, at most
SPLIT = 1024  # concepts of a split, at least
SCRATCH = 2**26  # floats that hold the splits' sums at a time
PROGRAMS = 264  # the backward pass over concepts parts the rows for as many: two for each SM of an H100
PART = 512  # rows of such a part, at least


def forward(q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    (N, H, D), k = q.shape, concepts.shape[0]
    out = torch.empty(N * H, D, dtype=q.dtype, device=q.device)
    lse = torch.empty(N * H, dtype=torch.float32, device=q.device)
    config = _configuration(FORWARD, q)
    rows, concepts = q.reshape(-1, D).contiguous(), concepts.contiguous()
    log_prior = None if log_prior is None else log_prior.contiguous()
    split, splits = _split(k)
    with on_device_of(q):
        for block in _blocks(N * H, splits * D):
            n = block.stop - block.start
            sums, state = out[block], lse[block]
            if splits > 1:
                sums, state = _scratch(q, splits, n, D), _scratch(q, 2, splits, n)
            _forward[(triton.cdiv(n, config.rows), splits)](
                rows[block], concepts, log_prior, sums, state, n, k, split, splits, scale,
                WHOLE=splits == 1, **_constants(D, log_prior, config),
            )  # fmt: skip
            if splits > 1:
                _join[(n,)](sums, state, out[block], lse[block], n, splits, **_width(D), **OPTIONS)
    return out.view(q.shape), lse.view(N, H)


def backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    concepts: Tensor,
    log_prior: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    (N, H, D), k = q.shape, concepts.shape[0]
    concepts = concepts.contiguous()
    log_prior = None if log_prior is None else log_prior.contiguous()
    rows, grads, outs = (x.reshape(-1, D).contiguous() for x in (q, grad_out, out))
    lse = lse.reshape(-1).contiguous()
    delta, dq = torch.empty_like(lse), torch.empty_like(rows)
    dprior = None if log_prior is None else torch.empty_like(log_prior)
    nothing = q.new_empty(0)
    if N * H == 0:
        dprior = nothing if log_prior is None else torch.zeros_like(log_prior)
        return dq.view(q.shape), torch.zeros_like(concepts), dprior
    exact = q.dtype == torch.float32
    split, splits = _split(k)
    by_row, by_concept = _configuration(BACKWARD_ROWS, q), _configuration(BACKWARD_CONCEPTS, q)
    with on_device_of(q):
        for block in _blocks(N * H, splits * D):
            n = block.stop - block.start
            sums = _scratch(q, splits, n, D) if splits > 1 else dq[block]
            _backward_rows[(triton.cdiv(n, by_row.rows), splits)](
                rows[block], grads[block], outs[block], lse[block], delta[block], concepts, concepts,
                log_prior, sums, n, k, split, scale, EXACT=exact, **_constants(D, log_prior, by_row),
            )  # fmt: skip
            if splits > 1:
                _add(sums, dq[block])
        tiles = triton.cdiv(k, by_concept.columns)
        parts = min(triton.cdiv(PROGRAMS, tiles), triton.cdiv(N * H, PART))
        part = triton.cdiv(triton.cdiv(N * H, parts), by_concept.rows) * by_concept.rows
        parts = triton.cdiv(N * H, part)
        dconcepts, to_concepts, to_prior = torch.empty_like(concepts), None, dprior
        if parts > 1:
            to_concepts, to_prior = _scratch(q, parts, k, D), _scratch(q, parts, k)
        _backward_concepts[(tiles, parts)](
            rows, grads, lse, delta, concepts, concepts, log_prior,
            dconcepts if to_concepts is None else to_concepts, to_prior,
            N * H, k, part, scale, EXACT=exact, **_constants(D, log_prior, by_concept),
        )  # fmt: skip
        if to_concepts is not None:
            _add(to_concepts, dconcepts)
            if dprior is not None and to_prior is not None:
                _add(to_prior, dprior)
    return dq.view(q.shape), dconcepts, nothing if dprior is None else dprior


def _split(k: int) -> tuple[int, int]:
    """Concepts of a split, and splits: from k alone, so that no row depends on how many rows there are."""
    size = 32 if INTERPRETED else triton.cdiv(max(SPLIT, triton.cdiv(k, SPLITS)), 128) * 128
    return size, triton.cdiv(k, size)


def _blocks(rows: int, floats: int) -> list[slice]:
    """Rows at a time whose splits fit into SCRATCH, each with `floats` of it."""
    size = max(SCRATCH // floats // 128 * 128, 128)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _scratch(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _add(parts: Tensor, out: Tensor) -> None:
    """out = the sum of parts over its first axis, in order."""
    n = out.numel()
    _add_parts[(triton.cdiv(n, 1024),)](parts, out, n, parts.shape[0], SIZE=1024, **OPTIONS)


# (rows, concepts) of a tile, warps, stages: by architecture, then by bits of the dtype and padded width.
# None is any other GPU from compute capability 8.0 on: 99 KiB of shared memory.
FORWARD = {
    None: {
        (16, 64): Config(64, 64, 4, 3), (16, 128): Config(64, 64, 4, 3), (16, 256): Config(32, 64, 8, 2),
        (32, 64): Config(32, 32, 4, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 32, 8, 2),
    },
}  # fmt: skip
BACKWARD_ROWS = {
    80: {
        (16, 64): Config(64, 64, 4, 3), (16, 128): Config(64, 64, 8, 2), (16, 256): Config(32, 32, 4, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(32, 16, 8, 2),
    },
    None: {
        (16, 64): Config(64, 64, 4, 3), (16, 128): Config(64, 64, 8, 2), (16, 256): Config(32, 32, 4, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
}  # fmt: skip
BACKWARD_CONCEPTS = {
    None: {
        (16, 64): Config(64, 64, 8, 2), (16, 128): Config(32, 64, 4, 2), (16, 256): Config(32, 32, 4, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(16, 32, 8, 2), (32, 256): Config(16, 16, 8, 2),
    },
}  # fmt: skip


def _configuration(table: dict, q: Tensor) -> Config:
    if INTERPRETED:
        return Config(16, 16, 1, 1)
    width = max(64, triton.next_power_of_2(q.shape[2]))
    return of_architecture(table)[8 * q.element_size(), width]


def _width(D: int) -> dict[str, int]:
    return {"D": D, "BLOCK_D": max(16, triton.next_power_of_2(D))}


def _constants(D: int, log_prior: Tensor | None, config: Config) -> dict:
    return {
        **_width(D), "ROWS": config.rows, "CONCEPTS": config.columns, "PRIOR": log_prior is not None,
        "num_warps": config.warps, "num_stages": config.stages, **OPTIONS,
    }  # fmt: skip


@triton.jit
def _tile(tensor, index, there, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, BLOCK_D] of a contiguous [n, D], 0 where a row is not there and beyond width D."""
    d = tl.arange(0, BLOCK_D)
    at = tensor + index.to(tl.int64)[:, None] * D + d[None, :]
    if D == BLOCK_D:
        return tl.load(at, mask=there[:, None], other=0.0)
    return tl.load(at, mask=there[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _put(tensor, x, index, there, D: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)
    at = tensor + index.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(at, x.to(tensor.dtype.element_ty), mask=there[:, None] & (d < D)[None, :])


@triton.jit
def _second(K, again, c, there, D: tl.constexpr, BLOCK_D: tl.constexpr, EXACT: tl.constexpr):
    """The tile K for a second product.

    In float32 it is fetched through a second pointer to the concepts, from the cache: given one tile, the
    compiler keeps all of it in registers from one product to the next, and spills.
    """
    if EXACT:
        K = _tile(again, c, there, D, BLOCK_D)
    return K


@triton.jit
def _bias(log_prior, c, exists, PRIOR: tl.constexpr):
    """What is added to the scores of concepts c, in bits; -inf where a concept is absent.

    A loop fetches it for the tile after the one it is at. Fetched where it is needed, it would leave the
    mask of the tile's concepts unknown until then, and the pipeline one tile deep.
    """
    bias = tl.where(exists, 0.0, -float("inf"))
    if PRIOR:
        bias = tl.load(log_prior + c, mask=exists, other=-float("inf")).to(tl.float32) * LOG2E
    return bias


@triton.jit
def _forward(
    q, concepts, log_prior, sums_at, state, rows, k, split, splits, scale, WHOLE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, CONCEPTS: tl.constexpr, PRIOR: tl.constexpr,
):  # a program per tile of rows and split of the concepts  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    s = tl.program_id(1)
    begin = s * split
    end = tl.minimum(begin + split, k)
    queries = _tile(q, r, r < rows, D, BLOCK_D)
    largest = tl.full([ROWS], -1e30, tl.float32)  # finite: a tile may hold nothing
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, BLOCK_D], tl.float32)
    c = begin + tl.arange(0, CONCEPTS)
    bias = _bias(log_prior, c, c < end, PRIOR)
    for _ in range(begin, end, CONCEPTS):
        after = _bias(log_prior, c + CONCEPTS, c + CONCEPTS < end, PRIOR)
        there = bias > -float("inf")
        K = _tile(concepts, c, there, D, BLOCK_D)
        scores = tl.dot(queries, tl.trans(K), input_precision="ieee") * (scale * LOG2E)
        scores = tl.where(there[None, :], scores + bias[None, :], -float("inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - now[:, None])
        shrink = tl.exp2(largest - now)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(K.dtype), K, sums * shrink[:, None], input_precision="ieee")
        largest = now
        bias = after
        c += CONCEPTS
    if WHOLE:
        saw = total > 0
        some = tl.where(saw, total, 1.0)
        _put(sums_at, sums / some[:, None], r, r < rows, D, BLOCK_D)
        tl.store(state + r, tl.where(saw, (largest + tl.log2(some)) / LOG2E, -1e30), mask=r < rows)
    else:
        place = s.to(tl.int64) * rows + r
        _put(sums_at, sums, place, r < rows, D, BLOCK_D)
        tl.store(state + place, largest, mask=r < rows)
        tl.store(state + splits.to(tl.int64) * rows + place, total, mask=r < rows)


@triton.jit
def _join(sums, state, out, lse, rows, splits, D: tl.constexpr, BLOCK_D: tl.constexpr):  # a program per row
    r = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    largest = -1e30
    total = 0.0
    found = tl.zeros([BLOCK_D], tl.float32)
    for s in range(0, splits):
        place = tl.cast(s, tl.int64) * rows + r
        here = tl.load(state + place)
        now = tl.maximum(largest, here)
        shrink, grow = tl.exp2(largest - now), tl.exp2(here - now)
        total = total * shrink + tl.load(state + splits.to(tl.int64) * rows + place) * grow
        found = found * shrink + tl.load(sums + place * D + d, mask=d < D, other=0.0) * grow
        largest = now
    saw = total > 0
    some = tl.where(saw, total, 1.0)
    tl.store(out + r * D + d, (found / some).to(out.dtype.element_ty), mask=d < D)
    tl.store(lse + r, tl.where(saw, (largest + tl.log2(some)) / LOG2E, -1e30))


@triton.jit
def _backward_rows(
    q, grad, out, lse, delta, concepts, again, log_prior, sums_at, rows, k, split, scale, EXACT: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, CONCEPTS: tl.constexpr, PRIOR: tl.constexpr,
):  # a program per tile of rows and split of the concepts: dq, and delta = sum(grad out)  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    s = tl.program_id(1)
    begin = s * split
    end = tl.minimum(begin + split, k)
    saw = tl.load(lse + r, mask=r < rows, other=-1e30)
    there = saw > -1e29  # a row that saw nothing does not look at its gradient
    queries = _tile(q, r, there, D, BLOCK_D)
    g = _tile(grad, r, there, D, BLOCK_D)
    g_out = tl.sum(g.to(tl.float32) * _tile(out, r, there, D, BLOCK_D).to(tl.float32), 1)
    tl.store(delta + r, g_out, mask=r < tl.where(s == 0, rows, 0))
    saw = tl.where(there, saw * LOG2E, float("inf"))
    sums = tl.zeros([ROWS, BLOCK_D], tl.float32)
    c = begin + tl.arange(0, CONCEPTS)
    bias = _bias(log_prior, c, c < end, PRIOR)
    for _ in range(begin, end, CONCEPTS):
        after = _bias(log_prior, c + CONCEPTS, c + CONCEPTS < end, PRIOR)
        exists = bias > -float("inf")
        K = _tile(concepts, c, exists, D, BLOCK_D)
        scores = tl.dot(queries, tl.trans(K), input_precision="ieee") * (scale * LOG2E) + bias[None, :]
        weights = tl.where(exists[None, :], tl.exp2(scores - saw[:, None]), 0.0)
        V = _second(K, again, c, exists, D, BLOCK_D, EXACT)
        dweights = tl.dot(g, tl.trans(V), input_precision="ieee")
        dscores = weights * (dweights - g_out[:, None]) * scale
        sums = tl.dot(dscores.to(K.dtype), K, sums, input_precision="ieee")
        bias = after
        c += CONCEPTS
    _put(sums_at, sums, s.to(tl.int64) * rows + r, r < rows, D, BLOCK_D)


@triton.jit
def _backward_concepts(
    q, grad, lse, delta, concepts, again, log_prior, to_concepts, to_prior, rows, k, part, scale,
    EXACT: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, CONCEPTS: tl.constexpr, PRIOR: tl.constexpr,
):  # a program per tile of concepts and part of the rows  # fmt: skip
    c = tl.program_id(0) * CONCEPTS + tl.arange(0, CONCEPTS)
    p = tl.program_id(1)
    begin = p * part
    end = tl.minimum(begin + part, rows)
    bias = _bias(log_prior, c, c < k, PRIOR)
    exists = bias > -float("inf")
    K = _tile(concepts, c, exists, D, BLOCK_D)
    V = _second(K, again, c, exists, D, BLOCK_D, EXACT)
    sums = tl.zeros([CONCEPTS, BLOCK_D], tl.float32)
    prior = tl.zeros([CONCEPTS], tl.float32)
    for at in range(begin, end, ROWS):
        r = at + tl.arange(0, ROWS)
        saw = tl.load(lse + r, mask=r < end, other=float("inf")) * LOG2E
        g_out = tl.load(delta + r, mask=r < end, other=0.0)
        queries = _tile(q, r, r < end, D, BLOCK_D)
        g = _tile(grad, r, r < end, D, BLOCK_D)
        scores = tl.dot(K, tl.trans(queries), input_precision="ieee") * (scale * LOG2E) + bias[:, None]
        weights = tl.where(exists[:, None], tl.exp2(scores - saw[None, :]), 0.0)  # [concepts, rows]
        dscores = weights * (tl.dot(V, tl.trans(g), input_precision="ieee") - g_out[None, :])
        if PRIOR:
            prior += tl.sum(dscores, 1)
        sums = tl.dot(weights.to(g.dtype), g, sums, input_precision="ieee")
        sums = tl.dot((dscores * scale).to(queries.dtype), queries, sums, input_precision="ieee")
    place = p.to(tl.int64) * k + c
    sums = tl.where(exists[:, None], sums, 0.0)  # a row that saw nothing may hold NaN in its gradient
    _put(to_concepts, sums, place, c < k, D, BLOCK_D)
    if PRIOR:
        tl.store(to_prior + place, tl.where(exists, prior, 0.0).to(to_prior.dtype.element_ty), mask=c < k)


@triton.jit
def _add_parts(parts, out, n, count, SIZE: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float32)
    for p in range(0, count):
        total += tl.load(parts + tl.cast(p, tl.int64) * n + i, mask=i < n, other=0.0)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=i < n)
