"""masked_attention in Triton: tiles of what is present, softmax online, nothing read that is absent.

A launch cannot ask how long the segments are, so a first kernel lays them out on the device as lists of
tiles (robustmdiff.kernels.tiles). The loops of the others run over the tiles of one patient. They hold no
branch, which would silently cost the software pipeline: what is absent or excluded shortens them.

Softmax and sums are float32. Where the inputs are 16 bits wide the weights are rounded to that width
before they meet v, as tensor cores need. Sums run in a fixed order, without atomics.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
from torch import Tensor

from robustmdiff.kernels.launch import (
    INTERPRETED,
    OPTIONS,
    Config,
    of_architecture,
    on_device_of,
    rows_contiguous,
)
from robustmdiff.kernels.masked_attention.backward_kernels import (
    _backward_keys,
    _backward_queries,
    _sum_affinity,
)
from robustmdiff.kernels.masked_attention.forward_kernel import _forward
from robustmdiff.kernels.tiles import Tiles

if TYPE_CHECKING:
    from robustmdiff.ops.masked_attention.arguments import Arguments

NOTHING = -1e30  # the log-sum-exp of a row that saw nothing


def forward(a: "Arguments") -> tuple[Tensor, Tensor]:
    (Tq, H, D), Tk = a.q.shape, a.k.shape[0]
    out = torch.zeros(Tq, H, D, dtype=a.q.dtype, device=a.q.device)
    lse = torch.full((Tq, H), NOTHING, dtype=torch.float32, device=a.q.device)
    if Tq == 0:
        return out, lse
    q, k, v = rows_contiguous(a.q, a.k, a.v)
    config = _configuration(FORWARD, q)
    with on_device_of(q):
        q_tiles, k_tiles = Tiles(a.q_segments, Tq, config.rows), Tiles(a.k_segments, Tk, config.columns)
        _forward[(q_tiles.limit, H)](
            q, k, v, out, lse, *_shared(q_tiles, k_tiles, a),
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
            a.q_segments.shape[1], a.k_segments.shape[1], a.scale,
            **_constants(a, config),
        )  # fmt: skip
    return out, lse


def backward(
    grad_out: Tensor, out: Tensor, lse: Tensor, a: "Arguments"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (Tq, H, D), (Tk, Hkv, _) = a.q.shape, a.k.shape
    Mq, M = a.q_segments.shape[1], a.k_segments.shape[1]
    dq = torch.zeros(Tq, H, D, dtype=a.q.dtype, device=a.q.device)
    dk, dv = (torch.zeros(Tk, Hkv, D, dtype=a.q.dtype, device=a.q.device) for _ in "kv")
    daffinity = a.q.new_empty(0) if a.affinity is None else torch.zeros_like(a.affinity).contiguous()
    if Tq == 0 or Tk == 0:
        return dq, dk, dv, daffinity
    q, k, v, grad_out, out = rows_contiguous(a.q, a.k, a.v, grad_out, out)
    strides = [n for x in (q, k, v, grad_out, out) for n in x.stride()[:2]]
    lse = lse.contiguous()
    delta = torch.empty_like(lse)
    by_query, by_key = _configuration(BACKWARD_QUERIES, q), _configuration(BACKWARD_KEYS, q)
    with on_device_of(q):
        q_tiles, k_tiles = Tiles(a.q_segments, Tq, by_query.rows), Tiles(a.k_segments, Tk, by_query.columns)
        partial = None
        if a.affinity is not None:
            partial = torch.empty(q_tiles.limit, H, M, dtype=torch.float32, device=q.device)
        _backward_queries[(q_tiles.limit, H)](
            q, k, v, grad_out, out, lse, delta, dq, partial,
            *_shared(q_tiles, k_tiles, a),
            *strides, Mq, M, a.scale, WIDTH=triton.next_power_of_2(M),
            **_constants(a, by_query),
        )  # fmt: skip
        if a.affinity is not None:
            _sum_affinity[(H, Mq)](
                partial, q_tiles.records, daffinity, q_tiles.limit, H, Mq, M,
                WIDTH=triton.next_power_of_2(M), TILES=32, num_warps=4, **OPTIONS,
            )  # fmt: skip
        if by_key[:2] != by_query[:2]:
            q_tiles, k_tiles = Tiles(a.q_segments, Tq, by_key.rows), Tiles(a.k_segments, Tk, by_key.columns)
        _backward_keys[(k_tiles.limit, Hkv)](
            q, k, v, grad_out, lse, delta, dk, dv,
            *_shared(q_tiles, k_tiles, a),
            *strides[:8], Mq, M, a.scale, **_constants(a, by_key),
        )  # fmt: skip
    return dq, dk, dv, daffinity


# (queries, keys) of a tile, warps, stages: by architecture, then by bits of the dtype and padded width.
# None is any other GPU from compute capability 8.0 on: 99 KiB of shared memory. float32 is exact, so it
# stays off the tensor cores and takes small tiles. Chosen by what compiles without a spill.
FORWARD = {
    80: {
        (16, 64): Config(128, 64, 4, 3), (16, 128): Config(128, 64, 8, 3), (16, 256): Config(64, 32, 8, 3),
        (32, 64): Config(64, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
    90: {
        (16, 64): Config(128, 64, 8, 3), (16, 128): Config(128, 64, 8, 3), (16, 256): Config(128, 32, 8, 3),
        (32, 64): Config(64, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
    None: {
        (16, 64): Config(128, 64, 8, 3), (16, 128): Config(128, 64, 8, 3), (16, 256): Config(64, 32, 8, 2),
        (32, 64): Config(64, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
}  # fmt: skip
BACKWARD_QUERIES = {
    90: {
        (16, 64): Config(128, 64, 8, 2), (16, 128): Config(64, 64, 8, 2), (16, 256): Config(64, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(32, 32, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
    None: {
        (16, 64): Config(128, 64, 8, 2), (16, 128): Config(64, 32, 8, 2), (16, 256): Config(32, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(32, 16, 8, 2), (32, 256): Config(16, 16, 4, 2),
    },
}  # fmt: skip
BACKWARD_KEYS = {
    90: {
        (16, 64): Config(64, 64, 8, 2), (16, 128): Config(64, 64, 8, 2), (16, 256): Config(32, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(16, 32, 8, 2), (32, 256): Config(16, 16, 8, 2),
    },
    None: {
        (16, 64): Config(64, 64, 8, 2), (16, 128): Config(32, 64, 8, 2), (16, 256): Config(16, 32, 8, 2),
        (32, 64): Config(32, 32, 8, 2), (32, 128): Config(16, 32, 8, 2), (32, 256): Config(16, 16, 8, 2),
    },
}  # fmt: skip


def _configuration(table: dict, q: Tensor) -> Config:
    if INTERPRETED:
        return Config(16, 16, 1, 1)
    width = max(64, triton.next_power_of_2(q.shape[2]))
    return of_architecture(table)[8 * q.element_size(), width]


def _shared(q_tiles: Tiles, k_tiles: Tiles, a: "Arguments") -> tuple:
    """What each kernel needs of the layout, of the affinity and of dropout."""
    # A word is kept from this on, compared as the definition does, in float32.
    threshold = int(np.ceil(np.float32(a.dropout_p * 2**24)))
    key = None if a.key is None else a.key.contiguous()
    affinity = a.affinity
    if affinity is not None:  # -inf less -inf, where the first tile is hidden, would be NaN
        affinity = affinity.float().clamp(min=NOTHING).contiguous()
    return (
        q_tiles.records, q_tiles.first, k_tiles.records, k_tiles.first, affinity, key, threshold,
        1 / (1 - a.dropout_p),
    )  # fmt: skip


def _constants(a: "Arguments", config: Config) -> dict:
    return {
        "D": a.q.shape[2], "BLOCK_D": max(16, triton.next_power_of_2(a.q.shape[2])),
        "H": a.q.shape[1], "GROUP": a.q.shape[1] // a.k.shape[1],
        "BLOCK_Q": config.rows, "BLOCK_K": config.columns,
        "AFFINITY": a.affinity is not None, "EXCLUDE_OWN": a.exclude_own, "DROPOUT": a.key is not None,
        "num_warps": config.warps, "num_stages": config.stages, **OPTIONS,
    }  # fmt: skip
