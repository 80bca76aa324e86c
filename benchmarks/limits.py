"""What the machine can do at all, measured in the same rounds as the candidates.

A limit does `work` units of one kind a call. What a workload needs of that kind, at the rate of the
fastest limit of the kind in this round, is time that nobody can go below; of several kinds the
slowest binds.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks import peak
from benchmarks.measure import PAST_THE_CACHE, Samples
from robustmdiff.ops import philox_key

FLOPS, BYTES, EDGES, NORMALS = "matmul", "bandwidth", "gather", "normals"


@dataclass(frozen=True)
class Limit:
    kind: str
    name: str
    work: float
    call: Callable[[], object]


def matmul(device: str, dtype: torch.dtype) -> list[Limit]:
    """torch.mm at shapes that suit the machine; on a CPU also a loop of multiply-adds for each of its
    instruction sets, since a library may reach less than the machine (MKL on AMD does)."""
    sizes = [(1024, 1024, 1024), (2048, 512, 1024)] if device == "cpu" else [(4096,) * 3, (8192,) * 3]
    found = []
    for m, k, n in sizes:
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        out = torch.empty(m, n, device=device, dtype=dtype)
        found.append(
            Limit(
                FLOPS, f"mm {m}x{k}x{n}", 2.0 * m * k * n, lambda a=a, b=b, out=out: torch.mm(a, b, out=out)
            )
        )
    if device == "cpu" and dtype == torch.float32 and shutil.which("g++"):
        threads = torch.get_num_threads()
        for isa in peak.instruction_sets():
            call = partial(peak.run, isa, threads)
            found.append(Limit(FLOPS, f"multiply-add {isa}", peak.operations(isa, threads), call))
    return found


def bandwidth(like: Tensor) -> list[Limit]:
    """Copy (one tensor in, one out), triad (two in) and addcmul (three in) at this size, past the cache."""
    size = like.numel() * like.element_size()
    count = min(max(2, PAST_THE_CACHE // (4 * max(size, 1))), 16)
    sets = itertools.cycle([[torch.randn_like(like) for _ in range(4)] for _ in range(count)])

    def copy() -> None:
        a, out, _, _ = next(sets)
        out.copy_(a)

    def triad() -> None:
        a, b, _, out = next(sets)
        torch.add(a, b, alpha=3.0, out=out)

    def addcmul() -> None:
        a, b, c, out = next(sets)
        torch.addcmul(a, b, c, out=out)

    moved = {"copy": (copy, 2), "triad": (triad, 3), "addcmul": (addcmul, 4)}
    return [Limit(BYTES, name, float(count * size), call) for name, (call, count) in moved.items()]


def normals(device: str) -> list[Limit]:
    """Philox and Box-Muller by our own kernel, into memory that stays in the cache of each thread."""
    like = torch.empty(2 * torch.get_num_threads(), 2**15, device=device)
    step, key = torch.zeros(len(like), dtype=torch.int64, device=device), philox_key(1).to(device)
    draw = partial(torch.ops.robustmdiff.philox_normal.default, like, step, key, None)
    return [Limit(NORMALS, "Philox and Box-Muller", float(like.numel()), draw)]


def gather(rows: Tensor, rowptr: Tensor, col: Tensor) -> list[Limit]:
    """Read the row of every edge's source: rows [n, width], one unit of work an edge.

    embedding_bag adds up the rows, of one node after the other or of 64 edges whatever their nodes, and
    writes only the sums; index_select writes all rows.
    """
    E, flat = col.shape[0], rows.flatten(1)
    count = min(max(2, PAST_THE_CACHE // max(flat.numel() * flat.element_size(), 1)), 16)
    tables = itertools.cycle([flat.clone() for _ in range(count)])
    out = flat.new_empty(E, flat.shape[1])
    by_64 = torch.arange(0, E, 64, device=col.device)

    def by_node() -> None:
        torch.nn.functional.embedding_bag(col, next(tables), rowptr, mode="sum", include_last_offset=True)

    def by_edges() -> None:
        torch.nn.functional.embedding_bag(col, next(tables), by_64, mode="sum")

    def index_select() -> None:
        torch.index_select(next(tables), 0, col, out=out)

    return [
        Limit(EDGES, "gather-sum by node", float(E), by_node),
        Limit(EDGES, "gather-sum by 64 edges", float(E), by_edges),
        Limit(EDGES, "index_select", float(E), index_select),
    ]


def per_round(limits: Iterable[Limit], samples: Samples, need: dict[str, float]) -> tuple[str, list[float]]:
    """The kind that binds, and the seconds of each round that `need` takes at the limits' rates."""
    by_kind: dict[str, list[float]] = {}
    for kind, amount in need.items():
        rates = [
            [s / limit.work for s in samples[limit.name][limit.kind]]
            for limit in limits
            if limit.kind == kind
        ]
        by_kind[kind] = [amount * min(round_) for round_ in zip(*rates, strict=False)]  # rounds of all
    binds = max(by_kind, key=lambda kind: sorted(by_kind[kind])[len(by_kind[kind]) // 2])
    return binds, [max(round_) for round_ in zip(*by_kind.values(), strict=False)]
