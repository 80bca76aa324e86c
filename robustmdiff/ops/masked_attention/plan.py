"""How the torch backend lays a ragged batch out: patients of similar size side by side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustmdiff.ops.masked_attention.segments import check_segments

# A patient joins a bucket while padding wastes at most this share of the bucket's (query, key)
# pairs, or so few pairs that another bucket's calls would cost more.
WASTE = 0.25
FREE_PAIRS = 8192


class Rows(NamedTuple):
    """Where the rows of one side go: bucket after bucket, patients padded to the bucket's length.

    Padding repeats the patient's own first row, so it is finite where the patient is; what comes
    of it is dropped.
    """

    slots: int
    flat: Tensor | None  # int64 [slots], the row in each slot; None: slot s holds row s, all T of them
    to: Tensor | None  # int64 [slots], the row that each slot is written to, T for padding; None: as above
    everywhere: bool  # every row has a slot
    padding: Tensor | None  # int64, the slots that repeat a row
    modality: Tensor  # int64 [slots]

    def rows(self) -> Tensor:
        """int64 [slots]: the row in each slot"""
        return torch.arange(self.slots, device=self.modality.device) if self.flat is None else self.flat

    def gather(self, x: Tensor) -> Tensor:
        """[T, ...] -> [slots, ...], contiguous: torch's fused attention reads past other strides."""
        return x.contiguous() if self.flat is None else x.index_select(0, self.flat)

    def scatter(self, buckets: list[Tensor], T: int, empty: float = 0.0) -> Tensor:
        """Buckets of slots -> [T, ...]; rows without a slot hold `empty`."""
        if self.to is None:
            return torch.cat(buckets) if len(buckets) > 1 else buckets[0].contiguous()
        shape = (T + 1, *buckets[0].shape[1:])  # padding goes to the last row
        x = buckets[0].new_empty(shape) if self.everywhere else buckets[0].new_full(shape, empty)
        done = 0
        for slots in buckets:
            x.index_copy_(0, self.to[done : done + len(slots)], slots)
            done += len(slots)
        return x[:T]


class Bucket(NamedTuple):
    """Patients side by side: their slots, and what they may not see: float32 [n, 1, 1 or Lq, Lk] of 0
    and -inf, no row of it all -inf."""

    patients: tuple[int, ...]
    Lq: int
    Lk: int
    q: slice
    k: slice
    bias: Tensor | None

    @property
    def n(self) -> int:
        return len(self.patients)

    def of_q(self, x: Tensor) -> Tensor:
        """[slots, H, D] -> [n, H, Lq, D]"""
        return x[self.q].view(self.n, self.Lq, *x.shape[1:]).transpose(1, 2)

    def of_k(self, x: Tensor) -> Tensor:
        """[slots, H, D] -> [n, H, Lk, D]"""
        return x[self.k].view(self.n, self.Lk, *x.shape[1:]).transpose(1, 2)

    def split(self, most: int) -> Iterator[Bucket]:
        """Buckets of at most `most` of these patients."""
        for i in range(0, self.n, most):
            patients = self.patients[i : i + most]
            first, last = i, i + len(patients)
            yield Bucket(
                patients,
                self.Lq,
                self.Lk,
                slice(self.q.start + first * self.Lq, self.q.start + last * self.Lq),
                slice(self.k.start + first * self.Lk, self.k.start + last * self.Lk),
                None if self.bias is None else self.bias[first:last],
            )


class Plan(NamedTuple):
    q: Rows
    k: Rows
    buckets: tuple[Bucket, ...]


@lru_cache(maxsize=16)
def _plan(q_bytes: bytes, k_bytes: bytes, shape: tuple[int, ...], exclude_own: bool) -> Plan:
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
    for end, b in enumerate(order.tolist()):
        own = int(q_total[b] * k_total[b])
        padded = (end + 1 - first) * int(q_total[b]) * max(largest_k, int(k_total[b]))
        if end > first and padded - pairs - own > max(FREE_PAIRS, WASTE * (pairs + own)):
            buckets.append(order[first:end])
            first, pairs, largest_k = end, 0, 0
        pairs, largest_k = pairs + own, max(largest_k, int(k_total[b]))
    if len(order):
        buckets.append(order[first:])

    q = _rows(q_segments[..., 0], q_length, buckets, Tq)
    k = _rows(k_segments[..., 0], k_length, buckets, Tk)
    layout = []
    q_end = k_end = 0
    for patients in buckets:
        n, Lq, Lk = len(patients), int(q_total[patients].max()), int(k_total[patients].max())
        q_slots, k_slots = slice(q_end, q_end + n * Lq), slice(k_end, k_end + n * Lk)
        q_end, k_end = q_slots.stop, k_slots.stop
        hidden = torch.from_numpy(np.arange(Lk) >= k_total[patients, None]).view(n, 1, 1, Lk)
        if exclude_own:
            same = q.modality[q_slots].view(n, 1, Lq, 1) == k.modality[k_slots].view(n, 1, 1, Lk)
            hidden = same | hidden
        bias = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf) if bool(hidden.any()) else None
        layout.append(Bucket(tuple(patients.tolist()), Lq, Lk, q_slots, k_slots, bias))
    return Plan(q, k, tuple(layout))


def _rows(start: np.ndarray, length: np.ndarray, buckets: list[np.ndarray], T: int) -> Rows:
    M = length.shape[1]
    flat, modality, real = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for patients in buckets:
        lengths = length[patients].reshape(-1)
        total = length[patients].sum(1)
        L = int(total.max())
        ends, place = np.cumsum(lengths), np.arange(total.sum())
        token = place + np.repeat(start[patients].reshape(-1) - (ends - lengths), lengths)
        first = np.cumsum(total) - total
        is_real = np.arange(L) < total[:, None]  # [n, L]
        rows = np.repeat(token[first], L).reshape(is_real.shape)
        rows[is_real] = token
        of = np.repeat(np.repeat(np.tile(np.arange(M), len(patients)), lengths)[first], L).reshape(rows.shape)
        of[is_real] = np.repeat(np.tile(np.arange(M), len(patients)), lengths)
        flat.append(rows.reshape(-1))
        modality.append(of.reshape(-1))
        real.append(is_real.reshape(-1))
    row, is_real = np.concatenate(flat), np.concatenate(real)
    slots = len(row)
    same = slots == T and bool((row == np.arange(T)).all())
    return Rows(
        slots,
        None if same else torch.from_numpy(row),
        None if same else torch.from_numpy(np.where(is_real, row, T)),
        int(is_real.sum()) == T,
        None if is_real.all() else torch.from_numpy(np.flatnonzero(~is_real)),
        torch.from_numpy(np.concatenate(modality)),
    )


def plan(
    q_segments: Tensor, k_segments: Tensor, Tq: int, Tk: int, exclude_own: bool, device: torch.device
) -> Plan:
    """The layout of a batch. The segments are read on the host (on a GPU this waits for it); the
    layers of a model share segments, so the last few plans are kept, found by value.
    """
    shape = (*q_segments.shape[:2], k_segments.shape[1], Tq, Tk)
    found = _plan(_bytes(q_segments), _bytes(k_segments), shape, exclude_own)
    return found if device.type == "cpu" else _move(found, device)


def _bytes(segments: Tensor) -> bytes:
    return segments.detach().cpu().numpy().tobytes()


def _move(found: Plan, device: torch.device) -> Plan:
    def move(x: Any) -> Any:
        return x.to(device) if isinstance(x, Tensor) else x

    buckets = tuple(Bucket(*map(move, bucket)) for bucket in found.buckets)
    return Plan(Rows(*map(move, found.q)), Rows(*map(move, found.k)), buckets)
