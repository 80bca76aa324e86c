"""Triton kernels for the ledger: each launcher runs on CPU tensors while every launch is only compiled.

So a kernel is compiled with exactly the types, constants and divisibilities that its launcher gives it
at run time; without the divisibilities a compiler reports spills that do not exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import repeat
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import torch

from tools.ledger import machine_code
from tools.ledger.lines import Line

ARCHITECTURES = (80, 90, 120)


@dataclass(frozen=True)
class Situation:
    """A call to compile: `run()` calls the launchers. What the named kernels must be able to do."""

    name: str
    run: Callable[[], Any]
    dtype: torch.dtype
    architectures: tuple[int, ...] = ARCHITECTURES
    pipelined: tuple[str, ...] = ()  # must fetch ahead
    tensor_cores: tuple[str, ...] = ()  # must multiply on tensor cores, in 16 bits; they round float32


def masked_attention() -> Iterator[Situation]:
    from robustmdiff.kernels import masked_attention as kernels
    from robustmdiff.ops.masked_attention.arguments import Arguments

    def call(D: int, dtype: torch.dtype, extras: bool) -> Callable[[], Any]:
        def run() -> None:
            Hkv = 2 if extras else 4
            q, k, v = torch.zeros(256, 4, D, dtype=dtype), *torch.zeros(2, 256, Hkv, D, dtype=dtype)
            segments = torch.tensor([[[0, 100], [100, 156]]], dtype=torch.int32)
            affinity = torch.zeros(4, 2, 2) if extras else None
            a = Arguments(q, k, v, segments, segments, affinity, None, D**-0.5, extras, 0.0)
            out, lse = kernels.forward(a)
            kernels.backward(out, out, lse, a)

        return run

    products = ("_forward", "_backward_queries", "_backward_keys")
    for dtype in (torch.bfloat16, torch.float32):
        for D in (64, 128, 256):
            name = f"masked_attention {_word(dtype)} {D}"
            yield Situation(name, call(D, dtype, False), dtype, ARCHITECTURES, products, products)
    yield Situation(
        "masked_attention affinity, exclude_own, shared heads, bfloat16 64",
        call(64, torch.bfloat16, True), torch.bfloat16, ARCHITECTURES, products, products,
    )  # fmt: skip


def knowledge_attention() -> Iterator[Situation]:
    from robustmdiff.kernels import knowledge_attention as kernels

    def call(D: int, k: int, dtype: torch.dtype, prior: bool) -> Callable[[], Any]:
        def run() -> None:
            q, concepts = torch.zeros(1024, 1, D, dtype=dtype), torch.zeros(k, D, dtype=dtype)
            log_prior = torch.zeros(k) if prior else None
            out, lse = kernels.forward(q, concepts, log_prior, 0.1)
            kernels.backward(out, out, lse, q, concepts, log_prior, 0.1)

        return run

    products = ("_forward", "_backward_rows", "_backward_concepts")
    for dtype in (torch.bfloat16, torch.float32):
        for D in (64, 128, 256):
            name = f"knowledge_attention {_word(dtype)} {D}"
            yield Situation(name, call(D, 4096, dtype, True), dtype, ARCHITECTURES, products, products)
    yield Situation(
        "knowledge_attention no prior, one split, bfloat16 128",
        call(128, 1024, torch.bfloat16, False), torch.bfloat16, ARCHITECTURES, products, products,
    )  # fmt: skip


def graph_attention() -> Iterator[Situation]:
    from robustmdiff.kernels import graph_attention as kernels
    from robustmdiff.ops.graph_attention.arguments import Arguments

    def call(D: int, dtype: torch.dtype, relations: int) -> Callable[[], Any]:
        def run() -> None:
            nodes, edges = 1024, 4 * kernels.SPLIT  # enough for a long row
            q, k, v = torch.zeros(3, nodes, 4, D, dtype=dtype)
            pointers, indices = (
                torch.zeros(nodes + 1, dtype=torch.int64),
                torch.zeros(edges, dtype=torch.int64),
            )
            relation, bias = (indices, torch.zeros(4, relations)) if relations else (None, None)
            graph = pointers, indices, relation, pointers, indices, indices
            a = Arguments(q, k, v, *graph, bias)
            out, lse = kernels.forward(a)
            kernels.backward(out, out, lse, a)

        return run

    gathers = ("_forward", "_backward_targets", "_backward_sources")
    for D, dtype, relations, architectures in (
        (64, torch.bfloat16, 16, ARCHITECTURES),
        (64, torch.float32, 16, ARCHITECTURES),
        (256, torch.bfloat16, 0, (90,)),
    ):
        name = f"graph_attention {_word(dtype)} {D}{' relations' if relations else ''}"
        yield Situation(name, call(D, dtype, relations), dtype, architectures, gathers)


def ddpm() -> Iterator[Situation]:
    from robustmdiff.kernels import ddpm as kernels
    from robustmdiff.ops.ddpm.arguments import Noise, Step

    def call(dtype: torch.dtype, everything: bool) -> Callable[[], Any]:
        def run() -> None:
            x, step, table = (
                torch.zeros(4, 4096, dtype=dtype),
                torch.zeros(4, dtype=torch.int64),
                torch.zeros(16, 8),
            )
            key, more = torch.zeros(2, dtype=torch.int64), x if everything else None
            guidances = torch.zeros(4) if everything else None
            drawn = key, None, None
            kernels.step(Step(x, x, step, table, more, guidances, more, *drawn, 1.0, 1.0, 0, False, out=x))
            kernels.noise(Noise(x, step, table, *drawn, out=x))
            kernels.normal(x, step, key, None)

        return run

    yield Situation("ddpm bfloat16", call(torch.bfloat16, False), torch.bfloat16)
    yield Situation("ddpm float32 guidance, learned variance", call(torch.float32, True), torch.float32)


SITUATIONS: tuple[Callable[[], Iterator[Situation]], ...] = (
    masked_attention,
    knowledge_attention,
    graph_attention,
    ddpm,
)


def _situations() -> list[Situation]:
    return [situation for op in SITUATIONS for situation in op()]


def missing() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed (pip install 'robustmdiff[triton]')"
    return None


def lines(words: list[str]) -> list[Line]:
    """The lines whose name and architecture hold all the words."""
    import triton

    found = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as pool:  # they share what is imported
        for number in ARCHITECTURES:
            arch = f"sm_{number}"
            wanted = [
                situation
                for situation in _situations()
                if number in situation.architectures
                and all(word in f"{situation.name} {arch}" for word in words)
            ]
            of_situation = pool.map(_kernels, [situation.name for situation in wanted], repeat(number))
            kernels = [
                (situation, *kernel)
                for situation, launched in zip(wanted, of_situation, strict=True)
                for kernel in launched
            ]
            used = machine_code.resources([cubin for *_, cubin in kernels], arch)
            for (situation, kernel, shared, _), of_cubin in zip(kernels, used, strict=True):
                (resources,) = of_cubin.values()
                found.append(
                    Line(
                        f"{situation.name}: {kernel}", arch, f"triton {triton.__version__}",
                        # Triton's shared memory is dynamic, so the cubin does not know it.
                        replace(resources, shared=resources.shared + shared),
                        kernel in situation.pipelined,
                        kernel in situation.tensor_cores and situation.dtype != torch.float32,
                    )
                )  # fmt: skip
    return found


def _kernels(situation: str, arch: int) -> list[tuple[str, int, bytes]]:
    """(kernel, dynamic shared memory, cubin); of a kernel that is launched several times the last launch."""
    (run,) = (found.run for found in _situations() if found.name == situation)
    last = {name: (metadata.shared, cubin) for name, metadata, cubin in compiled(run, arch)}
    return [(name, *kernel) for name, kernel in last.items()]


def compiled(run: Callable[[], Any], arch: int) -> list[tuple[str, Any, bytes]]:
    """(kernel, metadata, cubin) of each launch in run(), for compute capability arch / 10."""
    found: list[tuple[str, Any, bytes]] = []
    with _launches_compile_only(arch, found):
        run()
    return found


@contextmanager
def _launches_compile_only(arch: int, found: list[tuple[str, Any, bytes]]) -> Iterator[None]:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    stand_in = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", arch, 32),
        get_current_device=lambda: arch,  # Triton keeps what it compiled by device
        get_current_stream=lambda device: 0,
    )
    original, before = JITFunction.run, driver._active

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = original(self, *args, grid=grid, warmup=True, **kwargs)
        found.append((self.fn.__name__, kernel.metadata, kernel.asm["cubin"]))

    driver.set_active(stand_in)
    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run, driver._active = original, before


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
