"""masked_attention and its peers. Tokens come packed, [T, H, D]; who wants them padded gets them so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks.candidates import BACKWARD, FORWARD, TRAINING, Candidate, Workload
from benchmarks.limits import BYTES, FLOPS
from benchmarks.peers.ours import backends
from robustmdiff.ops import masked_attention
from robustmdiff.ops.masked_attention.plan import _plan, plan
from robustmdiff.testing.cases.masked_attention import masked_case, segments_of_packed


@dataclass(frozen=True)
class Patients(Workload):
    """lengths [B, M] on the CPU, 0 = absent; segments [B, M, 2] and row [T] on the device.

    row is where each packed token stands in the padded batch [B * width, H, D], in which every
    modality has columns of its own.
    """

    lengths: Tensor
    segments: Tensor
    row: Tensor
    width: int

    def pad(self, x: Tensor) -> Tensor:
        """[T, H, D] -> [B, H, width, D], contiguous"""
        padded = x.new_zeros(len(self.lengths) * self.width, *x.shape[1:]).index_copy(0, self.row, x)
        return padded.unflatten(0, (-1, self.width)).transpose(1, 2).contiguous()

    def unpad(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(0, 1)[self.row]

    def seen(self) -> Tensor:
        """bool [B, width]: the columns that hold a token of the patient."""
        seen = torch.zeros(len(self.lengths) * self.width, dtype=torch.bool, device=self.row.device)
        return seen.index_fill(0, self.row, True).view(-1, self.width)


def patients(
    name: str, lengths: Tensor, sizes: Sequence[int], H: int, D: int, device: str, dtype: torch.dtype
) -> Patients:
    """lengths [B, M]: each modality's tokens, at most its size."""
    segments, T = segments_of_packed(lengths)
    case = masked_case(name, segments, T, H=H, Hkv=H, D=D)
    column = torch.tensor([0, *sizes]).cumsum(0)
    first = torch.arange(len(lengths))[:, None] * int(column[-1]) + column[:-1]
    row = torch.cat([torch.arange(a, a + n) for a, n in zip(first.flatten(), lengths.flatten(), strict=True)])
    pairs = float((lengths.sum(1) ** 2).sum())
    flops, moved = 4 * pairs * H * D, float(T * H * D * dtype.itemsize)
    return Patients(
        "masked_attention",
        name,
        {n: x.to(device, dtype) for n, x in case.tensors.items()},
        case.plain,
        {  # two products forward; backward makes the scores again and has four more
            FORWARD: {FLOPS: flops, BYTES: 4 * moved},
            BACKWARD: {FLOPS: 2.5 * flops, BYTES: 8 * moved},
            TRAINING: {FLOPS: 3.5 * flops, BYTES: 12 * moved},
        },
        lengths,
        segments.to(device),
        row.to(device),
        int(column[-1]),
    )


def ours(workload: Patients) -> Callable[..., Tensor]:
    return lambda q, k, v: masked_attention(q, k, v, workload.segments, workload.segments)


def torch_plan(workload: Patients) -> Callable[..., object]:
    """The torch backend lays out its buckets once for a batch; here anew each time."""

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> object:
        _plan.cache_clear()
        return plan(workload.segments, workload.segments, len(q), len(k), False, q.device)

    return prepare


def dense_mask(workload: Patients) -> Callable[..., Tensor]:
    return lambda q, k, v: workload.seen()[:, None, None]


def _formula(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask, torch.finfo(q.dtype).min)
    return scores.softmax(-1) @ v


def eager(workload: Patients) -> Candidate:
    slow = "left out to save time: slower than torch.compile"
    return Candidate(
        "torch eager", _formula, dense_mask(workload), workload.pad, workload.unpad, forward_only=slow
    )


def compiled(workload: Patients) -> Candidate:
    run = torch.compile(_formula, dynamic=False)
    return Candidate("torch.compile", run, dense_mask(workload), workload.pad, workload.unpad)


def sdpa_dense(workload: Patients) -> Candidate:
    def run(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, attn_mask=mask)

    if bool((workload.lengths > 0).all()):  # nothing missing: no mask, the peer's best case
        return Candidate(
            "SDPA", lambda _, q, k, v: sdpa(q, k, v), arrange=workload.pad, restore=workload.unpad
        )
    return Candidate("SDPA, dense mask", run, dense_mask(workload), workload.pad, workload.unpad)


def sdpa_bucketed(workload: Patients) -> Candidate:
    """Patients with the same modalities make one dense batch: gathered, attended, scattered back."""
    device = workload.row.device

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        members = defaultdict(list)
        start = 0
        for lengths in workload.lengths.tolist():
            stop = start + sum(lengths)
            if stop > start:
                members[tuple(lengths)].append(torch.arange(start, stop))
            start = stop
        found = []
        for patients in members.values():
            rows = torch.stack(patients).to(device)  # [n, L]
            found.append((rows, [x[rows].transpose(1, 2) for x in (q, k, v)]))
        return found

    def run(buckets: list[tuple[Tensor, list[Tensor]]], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = [sdpa(*operands).transpose(1, 2).flatten(0, 1) for _, operands in buckets]
        rows = torch.cat([rows.flatten() for rows, _ in buckets])
        return torch.empty_like(q).index_copy(0, rows, torch.cat(outs))

    return Candidate("SDPA, bucketed by pattern", run, prepare)


def sdpa_packed(workload: Patients) -> Candidate:
    """One call a patient, on views of the packed tokens."""
    totals = workload.lengths.sum(1).tolist()

    def run(_: None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        each = zip(*(x.transpose(0, 1)[None].split(totals, 2) for x in (q, k, v)), strict=True)
        return torch.cat([sdpa(*operands)[0].transpose(0, 1) for operands in each if operands[0].numel()])

    return Candidate("SDPA, packed per patient", run)


def flex(workload: Patients) -> Candidate:
    """Padded, with a block mask of who sees whom: faster on the CPU than all patients on one axis."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attend, seen, width = torch.compile(flex_attention, dynamic=False), workload.seen(), workload.width

    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return seen[b, i] & seen[b, j]

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> object:
        seen.copy_(workload.seen())  # one function for all batches: a new one would compile anew
        return create_block_mask(sees, len(seen), None, width, width, device=q.device.type)

    def run(mask: object, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, block_mask=mask)

    return Candidate("FlexAttention, block mask", run, prepare, workload.pad, workload.unpad)


def varlen(workload: Patients) -> Candidate:
    from torch.nn.attention.varlen import varlen_attn

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, int]:
        totals = workload.lengths.sum(1)
        ends = torch.cat([totals.new_zeros(1), totals.cumsum(0)]).to(q.device, torch.int32)
        return ends, int(totals.max())

    def run(prepared: tuple[Tensor, int], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ends, longest = prepared
        return varlen_attn(q, k, v, ends, ends, longest, longest)

    return Candidate("torch varlen_attn", run, prepare)


def xformers(workload: Patients) -> Candidate:
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> object:
        return BlockDiagonalMask.from_seqlens([n for n in workload.lengths.sum(1).tolist() if n])

    def run(mask: object, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask)[0]

    return Candidate("xformers, block diagonal", run, prepare)


MAKERS: dict[str, Callable[[Patients], Candidate]] = {
    "torch eager": eager,
    "torch.compile": compiled,
    "SDPA, dense mask": sdpa_dense,
    "SDPA, bucketed by pattern": sdpa_bucketed,
    "SDPA, packed per patient": sdpa_packed,
    "FlexAttention, block mask": flex,
    "torch varlen_attn": varlen,
    "xformers, block diagonal": xformers,
    **backends("masked_attention", ours, {"torch": torch_plan}),
}
