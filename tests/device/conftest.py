"""Larger calls of every op, for whichever device RMD_TEST_DEVICE names (the CPU unless told otherwise).

`tools/gpu_verify.py` runs these on a GPU; on the CPU they run at a tiny size, which is large enough for
several tiles of each kernel and small enough for compute-sanitizer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.ops import (
    Graph,
    ddpm_step,
    graph_attention,
    knowledge_attention,
    masked_attention,
    philox_key,
    segments_from_padded,
)
from robustmdiff.ops.dispatch import BackendError, Op

DEVICE = os.environ.get("RMD_TEST_DEVICE", "cpu")
SIZES = ("tiny", "real") if DEVICE == "cuda" else ("tiny",)
BACKENDS = ("native", "triton", "torch")


@dataclass
class Workload:
    """tensors: what has a gradient; run(**tensors) calls the op; absent: rows that nobody may read."""

    op: str
    tensors: dict[str, Tensor]
    run: Callable[..., Tensor]
    absent: dict[str, Tensor] = field(default_factory=dict)

    def at(self, dtype: torch.dtype, poisoned: bool = False) -> dict[str, Tensor]:
        found = {}
        for name, x in self.tensors.items():
            x = x.to(dtype, copy=True)
            if poisoned and name in self.absent:
                x[self.absent[name]] = torch.nan
            found[name] = x.requires_grad_(self.op != "ddpm_step")
        return found


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def masked(size: str) -> Workload:
    """Half of the modalities of each patient present, left in their padded places."""
    B, H, D, widths = (
        (16, 8, 64, (196, 256, 196, 199, 64)) if size == "real" else (3, 2, 32, (70, 40, 3, 90, 1))
    )
    present = torch.rand(B, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    columns = [0, *torch.tensor(widths).cumsum(0).tolist()]
    segments = segments_from_padded(present * torch.tensor(widths), columns).to(DEVICE)
    hidden = ~present.repeat_interleave(torch.tensor(widths), 1).flatten().to(DEVICE)
    T = B * columns[-1]

    def run(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor) -> Tensor:
        return masked_attention(q, k, v, segments, segments, affinity=affinity)

    tensors = {name: draw(T, H, D, seed=i) for i, name in enumerate("qkv")}
    tensors["affinity"] = draw(H, 5, 5, seed=3)
    return Workload("masked_attention", tensors, run, dict.fromkeys("qkv", hidden))


def knowledge(size: str) -> Workload:
    N, H, d, k = (64, 8, 256, 100_000) if size == "real" else (3, 2, 32, 700)
    absent = torch.rand(k, generator=torch.Generator().manual_seed(1)) < 0.1
    log_prior = torch.zeros(k).masked_fill(absent, -torch.inf).to(DEVICE)

    def run(q: Tensor, concepts: Tensor) -> Tensor:
        return knowledge_attention(q, concepts, log_prior.to(q.dtype), scale=d**-0.5)

    tensors = {"q": draw(N, H, d, seed=4), "concepts": draw(k, d, seed=5)}
    return Workload("knowledge_attention", tensors, run, {"concepts": absent.to(DEVICE)})


def graph(size: str) -> Workload:
    n, E, H, D = (98_000, 400_000, 4, 64) if size == "real" else (40, 4_000, 2, 32)
    generator = torch.Generator().manual_seed(2)
    source, relation = (torch.randint(m, (E,), generator=generator) for m in (n // 2, 3))
    target = (n * torch.rand(E, generator=generator) ** 3).long()  # some nodes have very many in-edges
    edges = Graph.from_edges(source, target, n, relation)
    edges = Graph(*(x if x is None else x.to(DEVICE) for x in edges))

    def run(q: Tensor, k: Tensor, v: Tensor, relation_bias: Tensor) -> Tensor:
        return graph_attention(q, k, v, edges, relation_bias=relation_bias)

    tensors = {name: draw(n, H, D, seed=6 + i) for i, name in enumerate("qkv")}
    tensors["relation_bias"] = draw(H, 3, seed=9)
    unread = torch.arange(n, device=DEVICE) >= n // 2
    return Workload("graph_attention", tensors, run, {"k": unread, "v": unread})


def step(size: str) -> Workload:
    shape = (8, 3, 256, 256) if size == "real" else (3, 2, 5, 7)
    table, key = Schedule(1000, "cosine", 50).table.to(DEVICE), philox_key(3).to(DEVICE)
    rows = (torch.arange(shape[0]) * 5).to(DEVICE)

    def run(model_output: Tensor, sample: Tensor, uncond: Tensor) -> Tensor:
        return ddpm_step(model_output, sample, rows, table, uncond=uncond, guidance=3.0, clip=1.0, key=key)

    names = ("model_output", "sample", "uncond")
    return Workload("ddpm_step", {x: draw(*shape, seed=10 + i) for i, x in enumerate(names)}, run)


WORKLOADS = {
    "masked_attention": masked,
    "knowledge_attention": knowledge,
    "graph_attention": graph,
    "ddpm_step": step,
}


def pytest_generate_tests(metafunc: Any) -> None:
    """`workload` and `backend`: every op at every size on every kernel that it has."""
    if "workload" in metafunc.fixturenames:
        having = {op: {b.name for b in Op.registry[op].backends} for op in WORKLOADS}
        cells = [(op, size, b) for op in WORKLOADS for size in SIZES for b in BACKENDS if b in having[op]]
        metafunc.parametrize(
            ("workload", "backend"),
            [pytest.param((op, size), b, id=f"{op}-{size}-{b}") for op, size, b in cells],
            indirect=["workload"],
        )


@pytest.fixture
def workload(request: pytest.FixtureRequest) -> Workload:
    op, size = request.param
    return WORKLOADS[op](size)


Call = Callable[[dict[str, Tensor]], list[Tensor]]


@pytest.fixture
def call(workload: Workload, backend: str) -> Call:
    """The result and, where the backend has them, the gradients. A backend that cannot run is skipped,
    in its own words."""

    def run(tensors: dict[str, Tensor]) -> list[Tensor]:
        with use_backend(**{workload.op: backend}):
            try:
                return _result_and_gradients(workload, tensors)
            except BackendError as declined:
                if "gradient" not in str(declined):
                    pytest.skip(str(declined))
            try:
                with torch.no_grad():
                    return [workload.run(**tensors)]
            except BackendError as declined:
                pytest.skip(str(declined))

    return run


@pytest.fixture
def plain(workload: Workload) -> Call:
    """The same in plain torch, in the dtype of what it is given."""

    def run(tensors: dict[str, Tensor]) -> list[Tensor]:
        with use_backend(**{workload.op: "torch"}):
            return _result_and_gradients(workload, tensors)

    return run


@pytest.fixture
def exact(plain: Call) -> Call:
    """The same in float64, on the values as they are rounded."""

    def run(tensors: dict[str, Tensor]) -> list[Tensor]:
        return plain({n: x.detach().double().requires_grad_(x.requires_grad) for n, x in tensors.items()})

    return run


def _result_and_gradients(workload: Workload, tensors: dict[str, Tensor]) -> list[Tensor]:
    out = workload.run(**tensors)
    if not out.requires_grad:
        return [out]
    g = torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, list(tensors.values()), g)]
