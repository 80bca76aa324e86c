"""How the torch backend lays a ragged batch out: patients of similar size side by side."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustmdiff.ops.masked_attention.segments import check_segments

# A patient joins a bucket while padding wastes at most this share of the bucket's (query, key)
# pairs, or so few pairs that another bucket's calls would cost more.
WASTE = 0.25
FREE_PAIRS = 8192


class Rows(NamedTuple):
    """A bucket's padded rows [n * L] on the flat axis. Padding repeats the patient's own first row,
    so it is always finite where the patient is, and what comes of it is dropped."""

    L: int
    flat: Tensor | slice  # int64 [n * L]; a slice where the rows lie end to end without padding
    real: Tensor | None  # int64: the slots that are no padding; None: all
    padding: Tensor | None  # int64: the other slots
    modality: Tensor  # int64 [n * L]

    def gather(self, x: Tensor) -> Tensor:
        """[T, H, ...] -> [n, H, L, ...]"""
        rows = x[self.flat] if isinstance(self.flat, slice) else x.index_select(0, self.flat)
        return rows.unflatten(0, (-1, self.L)).transpose(1, 2)

    def scatter(self, bucket: Tensor, x: Tensor) -> None:
        """Writes a bucket [n, H, L, ...] to its rows of x [T, H, ...]."""
        rows = bucket.transpose(1, 2).flatten(0, 1)
        if isinstance(self.flat, slice):
            x[self.flat] = rows
        elif self.real is None:
            x.index_copy_(0, self.flat, rows)
        else:
            x.index_copy_(0, self.flat[self.real], rows[self.real])


class Bucket(NamedTuple):
    q: Rows
    k: Rows
    hidden: Tensor | None  # bool [n, 1, 1 or Lq, Lk]; no row of it hides every key


@lru_cache(maxsize=16)
def _plan(q_bytes: bytes, k_bytes: bytes, shape: tuple[int, ...], exclude_own: bool) -> tuple[Bucket, ...]:
    B, Mq, M, Tq, Tk = shape
    q_segments = np.frombuffer(q_bytes, np.int32).reshape(B, Mq, 2)
    k_segments = np.frombuffer(k_bytes, np.int32).reshape(B, M, 2)
    check_segments("q_segments", q_segments, Tq)
    check_segments("k_segments", k_segments, Tk)
    q_length, k_length = q_segments[..., 1].astype(np.int64), k_segments[..., 1].astype(np.int64)
    visible = np.broadcast_to(k_length.sum(1, keepdims=True), (B, Mq))
    if exclude_own:
        visible = visible - k_length
    q_length = np.where(visible > 0, q_length, 0)  # a row that sees nothing is in no bucket
    q_total, k_total = q_length.sum(1), k_length.sum(1)

    order = np.lexsort((k_total, q_total))
    order = order[q_total[order] > 0]
    buckets, first = [], 0
    pairs = largest_k = 0
    for end, b in enumerate(order):
        own = int(q_total[b] * k_total[b])
        padded = (end + 1 - first) * int(q_total[b]) * max(largest_k, int(k_total[b]))
        if end > first and padded - pairs - own > max(FREE_PAIRS, WASTE * (pairs + own)):
            buckets.append(order[first:end])
            first, pairs, largest_k = end, 0, 0
        pairs, largest_k = pairs + own, max(largest_k, int(k_total[b]))
    if len(order):
        buckets.append(order[first:])

    layout = []
    for patients in buckets:
        q = _rows(q_segments[patients, :, 0], q_length[patients])
        k = _rows(k_segments[patients, :, 0], k_length[patients])
        n = len(patients)
        hidden = None
        if k.padding is not None:
            hidden = torch.zeros(n * k.L, dtype=torch.bool).index_fill_(0, k.padding, True).view(n, 1, 1, k.L)
        if exclude_own:
            own = q.modality.view(n, 1, q.L, 1) == k.modality.view(n, 1, 1, k.L)
            hidden = own if hidden is None else own | hidden
        layout.append(Bucket(q, k, hidden))
    return tuple(layout)


def _rows(start: np.ndarray, length: np.ndarray) -> Rows:
    n, M = length.shape
    total = length.sum(1)
    L = int(total.max())
    patient = np.repeat(np.arange(n), total)
    run = np.cumsum(length.reshape(-1)) - length.reshape(-1)  # where each segment begins, end to end
    place = np.arange(total.sum())
    token = place + np.repeat(start.reshape(-1) - run, length.reshape(-1))
    slot = patient * L + place - np.repeat(np.cumsum(total) - total, total)
    padded = bool((total < L).any())
    flat = np.repeat(token[np.cumsum(total) - total], L)  # each patient's first row, everywhere
    flat[slot] = token
    modality = np.zeros(n * L, np.int64)
    modality[slot] = np.repeat(np.tile(np.arange(M), n), length.reshape(-1))
    if not padded and bool((np.diff(flat) == 1).all()):
        return Rows(L, slice(int(flat[0]), int(flat[0]) + n * L), None, None, torch.from_numpy(modality))
    padding = np.setdiff1d(np.arange(n * L), slot, assume_unique=True)
    return Rows(
        L,
        torch.from_numpy(flat),
        torch.from_numpy(slot) if padded else None,
        torch.from_numpy(padding) if padded else None,
        torch.from_numpy(modality),
    )


def plan(
    q_segments: Tensor, k_segments: Tensor, Tq: int, Tk: int, exclude_own: bool, device: torch.device
) -> tuple[Bucket, ...]:
    """The buckets of a batch. The segments are read on the host (on a GPU this waits for it); the
    layers of a model share segments, so the last few plans are kept, found by value.
    """
    shape = (*q_segments.shape[:2], k_segments.shape[1], Tq, Tk)
    found = _plan(_bytes(q_segments), _bytes(k_segments), shape, exclude_own)
    return found if device.type == "cpu" else tuple(_move(bucket, device) for bucket in found)


def _bytes(segments: Tensor) -> bytes:
    return segments.detach().cpu().numpy().tobytes()


def _move(bucket: Bucket, device: torch.device) -> Bucket:
    def move(x: object) -> object:
        return x.to(device) if isinstance(x, Tensor) else x

    return Bucket(Rows(*map(move, bucket.q)), Rows(*map(move, bucket.k)), move(bucket.hidden))  # type: ignore[arg-type]
