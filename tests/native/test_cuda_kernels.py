"""The CUDA kernels, run on the CPU by an emulator: their indexing, barriers and sums, without a GPU.

What it cannot show is what only hardware has: races that a fiber's order hides, alignment of real
loads, speed. `RMD_TEST_DEVICE=cuda` runs the contract tests on a GPU.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustmdiff.ops import Graph
from robustmdiff.ops.graph_attention import torch_backend as graph_backend
from robustmdiff.ops.graph_attention.arguments import Arguments as GraphArguments
from robustmdiff.ops.masked_attention import torch_backend as masked_backend
from robustmdiff.ops.masked_attention.arguments import Arguments as MaskedArguments
from robustmdiff.ops.registration import NOTHING

SOURCE = Path(__file__).parent / "emulator" / "kernels.cpp"
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine")
    library = tmp_path_factory.mktemp("emulator") / "kernels.so"
    command = [
        compiler,
        "-std=c++20",
        "-O1",
        "-U_FORTIFY_SOURCE",
        "-Wall",
        "-Wextra",
        "-Wno-unknown-pragmas",
        "-Werror",
        "-shared",
    ]
    subprocess.run([*command, "-fPIC", f"-I{SOURCE.parent}", str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    if x is None:
        return ctypes.c_void_p(None)
    assert x.is_contiguous()
    return ctypes.c_void_p(x.data_ptr())


class CGraph(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("rowptr", "col", "relation", "out_rowptr", "out_target", "out_edge")
    ]
    _fields_ += [(name, ctypes.c_int64) for name in ("n", "E", "relations")]


class OnGraph:
    """A graph's arguments for the kernels."""

    def __init__(self, kernels, graph: Graph, bias: Tensor | None, wide: bool = True) -> None:
        self.kernels, self.tensors, self.bias, self.wide = kernels, (*graph, bias), bias, wide
        relations = 0 if bias is None else bias.shape[1]
        pointers = (None if x is None else x.data_ptr() for x in graph)
        self.graph = CGraph(*pointers, graph.num_nodes, graph.col.shape[0], relations)

    def settings(self, q: Tensor) -> tuple:
        return (
            TYPES[q.dtype], int(self.wide), q.shape[1], q.shape[2], ctypes.c_float(q.shape[2] ** -0.5),
            ctypes.byref(self.graph), pointer(self.bias),
        )  # fmt: skip

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = torch.full_like(q, torch.nan), torch.full(q.shape[:2], torch.nan)
        self.kernels.graph_forward(*self.settings(q), *map(pointer, (q, k, v, out, lse)))
        return out, lse

    def backward(
        self, g: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, ...]:
        grads = tuple(torch.full_like(x, torch.nan) for x in (q, k, v))
        dbias = torch.zeros(0) if self.bias is None else torch.full_like(self.bias, torch.nan)
        self.kernels.graph_backward(*self.settings(q), *map(pointer, (q, k, v, g, out, lse, *grads, dbias)))
        return *grads, dbias


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def graph_of_degrees(degrees: list[int], n: int, relations: int | None) -> Graph:
    """Node i has degrees[i] in-edges from random nodes, most of them from node 0."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(len(degrees)).repeat_interleave(torch.tensor(degrees))
    source = torch.randint(n - 2, target.shape, generator=generator)
    source[torch.rand(source.shape, generator=generator) < 0.4] = 0
    order = torch.randperm(len(target), generator=generator)
    relation = None if relations is None else torch.randint(relations, target.shape, generator=generator)
    return Graph.from_edges(source[order], target[order], n, relation)


# a warp's rows, a block's, one just short of two pieces, whole pieces, neighbours of each other, and none
DEGREES = [3, 1, 64, 65, 0, 1024, 1025, 2048, 0, 2]
WIDTHS = [
    (torch.float32, 7, None),
    (torch.float32, 32, 5),
    (torch.float32, 132, None),
    (torch.float16, 64, 5),
    (torch.bfloat16, 24, None),
    (torch.bfloat16, 200, 5),
]


def within(ours: Tensor, plain: Tensor, exact: Tensor, factor: int, terms: float) -> None:
    """As exact as the torch backend in the same dtype, to a factor, plus a rounding of the largest term."""
    budget = factor * (float((plain.double() - exact).abs().max()) + torch.finfo(plain.dtype).eps * terms)
    assert ours.dtype == plain.dtype
    assert torch.isfinite(ours).all()
    assert float((ours.double() - exact).abs().max()) <= budget


def largest(*tensors: Tensor) -> float:
    return max(float(x.abs().max()) for x in tensors)


@pytest.mark.parametrize(("dtype", "D", "relations"), WIDTHS)
def test_graph_attention(kernels, dtype, D, relations):
    H, n = 2, 40
    graph = graph_of_degrees(DEGREES, n, relations)
    bias = None if relations is None else draw(H, relations, seed=5)
    q, k, v, g = (draw(n, H, D, seed=i, dtype=dtype) for i in range(4))
    exact_bias = None if bias is None else bias.double()
    exact = graph_backend.forward(GraphArguments(q.double(), k.double(), v.double(), *graph, exact_bias))
    plain = graph_backend.forward(GraphArguments(q, k, v, *graph, bias))
    ours = OnGraph(kernels, graph, bias, wide=D % (16 // q.element_size()) == 0)
    out, lse = ours.forward(q, k, v)
    within(out, plain[0], exact[0], 2, largest(q, k, v))
    within(lse, plain[1], exact[1], 2, 10.0)
    assert (out[graph.rowptr.diff() == 0] == 0).all()
    assert (lse[graph.rowptr.diff() == 0] == NOTHING).all()

    expected = graph_backend.backward(
        g.double(), *exact, GraphArguments(q.double(), k.double(), v.double(), *graph, exact_bias)
    )
    plain = graph_backend.backward(g, *plain, GraphArguments(q, k, v, *graph, bias))
    found = ours.backward(g, out, lse, q, k, v)
    for x, y, z in zip(found[: 3 + (bias is not None)], plain, expected, strict=False):
        within(x, y, z, 3, largest(q, k, v) * largest(g))

    # what no edge reads is not read, and the bits are the same
    q[graph.rowptr.diff() == 0] = torch.nan
    g[graph.rowptr.diff() == 0] = torch.nan
    for x in (k, v):
        x[graph.out_rowptr.diff() == 0] = torch.nan
    again = ours.forward(q, k, v)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], lse)
    assert all(map(torch.equal, ours.backward(g, out, lse, q, k, v), found))


def test_a_graph_beside_another_has_the_same_bits(kernels):
    H, D, n = 1, 16, 40
    one, other = graph_of_degrees(DEGREES, n, None), graph_of_degrees([700, 5, 1030], n, None)
    q, k, v, g = (draw(2 * n, H, D, seed=i) for i in range(4))

    def edges(graph: Graph) -> tuple[Tensor, Tensor]:
        return graph.col, torch.arange(n).repeat_interleave(graph.rowptr.diff())

    source, target = (torch.cat([a, b + n]) for a, b in zip(edges(other), edges(one), strict=True))
    both = OnGraph(kernels, Graph.from_edges(source, target, 2 * n), None)
    alone = OnGraph(kernels, one, None)
    out, lse = both.forward(q, k, v)
    mine, my_lse = alone.forward(q[n:], k[n:], v[n:])
    assert torch.equal(out[n:], mine)
    assert torch.equal(lse[n:], my_lse)
    grads = both.backward(g, out, lse, q, k, v)
    mine = alone.backward(g[n:], mine, my_lse, q[n:], k[n:], v[n:])
    assert all(torch.equal(x[n:], y) for x, y in zip(grads[:3], mine[:3], strict=True))


def test_relations_beyond_one_window(kernels):
    H, D, n, relations = 2, 8, 40, 1500
    graph = graph_of_degrees([900, 700], n, relations)
    bias = draw(H, relations, seed=5)
    q, k, v, g = (draw(n, H, D, seed=i) for i in range(4))
    ours = OnGraph(kernels, graph, bias)
    out, lse = ours.forward(q, k, v)
    found = ours.backward(g, out, lse, q, k, v)[3]
    plain = graph_backend.backward(g, out, lse, GraphArguments(q, k, v, *graph, bias))[3]
    exact = graph_backend.backward(
        *(x.double() for x in (g, out, lse)),
        GraphArguments(q.double(), k.double(), v.double(), *graph, bias.double()),
    )[3]
    within(found, plain, exact, 3, largest(q, k, v) * largest(g))


def test_a_graph_without_edges(kernels):
    graph = Graph.from_edges(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 5)
    q = torch.full((5, 2, 8), torch.nan)
    ours = OnGraph(kernels, graph, None)
    out, lse = ours.forward(q, q, q)
    assert (out == 0).all()
    assert (lse == NOTHING).all()
    assert all((x == 0).all() for x in ours.backward(q, out, lse, q, q, q))


def attend(kernels, q, k, v, q_segments, k_segments, affinity, exclude_own) -> tuple[Tensor, Tensor]:
    """masked_attention_fwd by the CUDA kernels"""
    out, lse = torch.full_like(q, torch.nan), torch.full(q.shape[:2], torch.nan)
    sizes = [ctypes.c_int64(x) for x in (q_segments.shape[0], q.shape[0], k.shape[0])]
    kernels.masked_forward(
        TYPES[q.dtype], q.shape[1], k.shape[1], q.shape[2], ctypes.c_float(q.shape[2] ** -0.5),
        int(exclude_own), *sizes, q_segments.shape[1], k_segments.shape[1],
        *map(pointer, (q_segments, k_segments, affinity, q, k, v, out, lse)),
    )  # fmt: skip
    return out, lse


def packed(lengths: list[list[int]], gap: int = 3) -> tuple[Tensor, int]:
    """Segments in a scrambled order, `gap` rows between them, and the rows of the axis."""
    table = torch.tensor(lengths, dtype=torch.int32)
    order = torch.randperm(table.numel(), generator=torch.Generator().manual_seed(1))
    start, place = torch.zeros(table.numel(), dtype=torch.int32), 1
    for i in order.tolist():
        start[i] = place
        place += int(table.flatten()[i]) + gap
    return torch.stack([start.view_as(table), table], -1), place


LENGTHS = [[70, 3, 130], [0, 64, 0], [0, 0, 0], [100, 0, 1], [0, 1, 17]]
MASKED = [
    # dtype, D, H, Hkv, affinity, exclude_own
    (torch.float16, 64, 2, 2, False, False),
    (torch.bfloat16, 32, 4, 2, True, False),
    (torch.float16, 96, 2, 1, False, True),
    (torch.bfloat16, 128, 1, 1, True, True),
    (torch.float16, 256, 1, 1, True, False),
    (torch.bfloat16, 40, 2, 2, False, True),
    (torch.bfloat16, 200, 1, 1, False, False),
]


@pytest.mark.parametrize(("dtype", "D", "H", "Hkv", "with_affinity", "exclude_own"), MASKED)
def test_masked_attention(kernels, dtype, D, H, Hkv, with_affinity, exclude_own):
    segments, T = packed(LENGTHS)
    q, k, v = (
        draw(T, H, D, seed=1, dtype=dtype),
        draw(T, Hkv, D, seed=2, dtype=dtype),
        draw(T, Hkv, D, seed=3, dtype=dtype),
    )
    affinity = draw(H, 3, 3, seed=4) if with_affinity else None
    settings = (segments, segments, affinity, exclude_own)
    exact = masked_backend.forward(
        MaskedArguments(
            q.double(), k.double(), v.double(), segments, segments,
            None if affinity is None else affinity.double(), None, D**-0.5, exclude_own, 0.0,
        )
    )  # fmt: skip
    out, lse = attend(kernels, q, k, v, *settings)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact[0], rtol=eps, atol=2 * eps)
    torch.testing.assert_close(lse.double(), exact[1], rtol=1e-5, atol=1e-5)

    outside = torch.ones(T, dtype=torch.bool)
    for start, length in segments.flatten(0, 1).tolist():
        outside[start : start + length] = False
    for x in (q, k, v):
        x[outside] = torch.nan
    again = attend(kernels, q, k, v, *settings)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], lse)
    assert (out[outside] == 0).all()
    assert (lse[outside] == NOTHING).all()


def test_a_patient_alone_and_elsewhere_has_the_same_bits(kernels):
    segments, T = packed(LENGTHS)
    q, k, v = (draw(T, 2, 64, seed=i, dtype=torch.bfloat16) for i in range(3))
    affinity = draw(2, 3, 3, seed=4)
    for bias, exclude_own in ((None, False), (affinity, False), (None, True)):
        out, _ = attend(kernels, q, k, v, segments, segments, bias, exclude_own)
        for patient in (0, 1, 4):
            rows = torch.cat([torch.arange(s, s + n) for s, n in segments[patient].tolist()])
            start = torch.tensor(LENGTHS[patient]).cumsum(0) - torch.tensor(LENGTHS[patient])
            own = torch.stack([start.int(), segments[patient, :, 1]], -1)[None].contiguous()
            mine, _ = attend(kernels, q[rows], k[rows], v[rows], own, own, bias, exclude_own)
            assert torch.equal(mine, out[rows]), patient


def test_segments_that_leave_the_axis_are_cut_off(kernels):
    T = 50
    q, k, v = (draw(T, 1, 32, seed=i, dtype=torch.float16) for i in range(3))
    wild = torch.tensor([[[40, 2**31 - 1], [-5, 20], [60, 4], [3, -7]]], dtype=torch.int32)
    same = torch.tensor([[[40, 10], [0, 20], [50, 0], [3, 0]]], dtype=torch.int32)
    found = attend(kernels, q, k, v, wild, wild, None, False)
    expected = attend(kernels, q, k, v, same, same, None, False)
    assert all(map(torch.equal, found, expected))


def test_learned_queries_and_no_rows_at_all(kernels):
    segments, T = packed(LENGTHS)
    rows = torch.tensor([[[i, 1]] for i in range(5)], dtype=torch.int32)
    q, k, v = (
        draw(5, 2, 64, seed=1, dtype=torch.float16),
        *(draw(T, 2, 64, seed=i, dtype=torch.float16) for i in (2, 3)),
    )
    exact = masked_backend.forward(
        MaskedArguments(q.double(), k.double(), v.double(), rows, segments, None, None, 0.125, False, 0.0)
    )
    out, lse = attend(kernels, q, k, v, rows, segments, None, False)
    torch.testing.assert_close(out.double(), exact[0], rtol=1e-3, atol=2e-3)
    assert (out[2] == 0).all()
    assert (lse[2] == NOTHING).all()

    nothing = torch.zeros(2, 3, 2, dtype=torch.int32)
    empty = torch.zeros(0, 2, 64, dtype=torch.float16)
    assert attend(kernels, empty, empty, empty, nothing, nothing, None, False)[0].shape == (0, 2, 64)
