"""What the C++ masked attention promises beyond its values: bits, memory, machines and odd sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustmdiff import explain, use_backend
from robustmdiff.ops import masked_attention, masked_attention_lse, philox_key, segments_from_padded
from robustmdiff.ops.masked_attention import native
from robustmdiff.ops.registration import NOTHING


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def packed(lengths: list[list[int]]) -> Tensor:
    """Segments of patients end to end, with a row between modalities that belongs to nobody."""
    found, end = [], 0
    for patient in lengths:
        found.append([])
        for n in patient:
            found[-1].append((end, n))
            end += n + 1
    return torch.tensor(found, dtype=torch.int32)


def run(backend, q, k, v, q_segments, k_segments, g, affinity=None, **settings) -> list[Tensor]:
    """out, log-sum-exp and every gradient"""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v, affinity) if x is not None]
    with use_backend(masked_attention=backend):
        out, lse = masked_attention_lse(
            *leaves[:3],
            q_segments,
            k_segments,
            affinity=leaves[3] if affinity is not None else None,
            **settings,
        )
        if not out.requires_grad:  # a definition that found nothing to read
            return [out, lse, *(torch.zeros_like(x) for x in leaves)]
        found = torch.autograd.grad(out, leaves, g, allow_unused=True)
    return [
        out.detach(),
        lse.detach(),
        *(torch.zeros_like(x) if d is None else d for x, d in zip(leaves, found, strict=True)),
    ]


def batch(D: int, H: int = 4, Hkv: int = 2, lengths=((5, 70), (0, 3), (131, 1), (0, 0)), dtype=torch.float32):
    segments = packed([list(patient) for patient in lengths])
    T = int(segments.flatten(0, 1)[-1].sum()) + 2
    q, k, v = (
        draw(T, H, D, seed=1, dtype=dtype),
        draw(T, Hkv, D, seed=2, dtype=dtype),
        draw(T, Hkv, D, seed=3, dtype=dtype),
    )
    return q, k, v, segments, segments, draw(T, H, D, seed=4, dtype=dtype)


def compare(reference: str, q, k, v, q_segments, k_segments, g, affinity=None, **settings) -> None:
    """The native kernels err at most 3 times as much as `reference` in the same dtype, plus one rounding
    of the largest term that was summed."""
    terms = max((float(x.abs().max()) for x in (q, k, v) if x.numel()), default=0.0)
    terms *= max(1.0, float(g.abs().max()) if g.numel() else 0.0)
    found = {
        (backend, dtype): run(
            backend, *(x.to(dtype) for x in (q, k, v)), q_segments, k_segments, g.to(dtype),
            affinity=None if affinity is None else affinity.to(dtype), **settings,
        )
        for backend, dtype in (("native", q.dtype), (reference, q.dtype), (reference, torch.float64))
    }  # fmt: skip
    for ours, plain, exact in zip(*found.values(), strict=True):
        nothing = exact == NOTHING
        assert torch.equal(ours == NOTHING, nothing)
        ours, plain, exact = (x[~nothing].double() for x in (ours, plain, exact))
        if exact.numel():
            rounding = torch.finfo(q.dtype).eps * max(terms, float(exact.abs().max()))
            assert (ours - exact).abs().max() <= 3 * (float((plain - exact).abs().max()) + rounding)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("D", [1, 2, 7, 16, 17, 32, 47, 64, 100, 128, 257])
def test_any_width_on_any_instruction_set(isa, D):
    args = batch(D)
    affinity = draw(4, 2, 2, seed=5)
    for extra in ({}, {"exclude_own": True}):
        compare("torch", *args, affinity=affinity, **extra)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_types_are_storage_only(isa, dtype):
    compare("torch", *batch(40, dtype=dtype), affinity=draw(4, 2, 2, seed=5, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(isa, threads, dtype):
    """One patient long enough to be cut into parts, on either side."""
    lengths = ((5, 70), (1100, 40), (0, 3), (131, 1)) if isa != "scalar" else ((5, 70), (600, 0), (3, 9))
    args = batch(8, lengths=lengths, dtype=dtype)
    affinity, found = draw(4, 2, 2, seed=5), []
    for n in (1, 2, 3, 8):
        threads(n)
        found.append(run("native", *args, affinity=affinity))
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, found[0], strict=True))


@pytest.mark.parametrize("exclude_own", [False, True])
def test_a_patient_does_not_depend_on_its_batch_mates(isa, exclude_own):
    lengths = [[5, 70], [0, 3], [131, 1], [0, 0], [64, 48], [700, 0]]
    affinity = draw(4, 2, 2, seed=5)
    q, k, v, segments, _, g = batch(24, lengths=lengths)
    together = run("native", q, k, v, segments, segments, g, affinity=affinity, exclude_own=exclude_own)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    turned = segments[order]
    again = run("native", q, k, v, turned, turned, g, affinity=affinity, exclude_own=exclude_own)
    assert all(torch.equal(x, y) for x, y in zip(together[:5], again[:5], strict=True))
    for b, patient in enumerate(lengths):
        start, end = int(segments[b, 0, 0]), int(segments[b, 0, 0]) + sum(patient) + 2
        rows = slice(start, end)
        own = segments[b : b + 1] - torch.tensor([start, 0], dtype=torch.int32)
        alone = run(
            "native", q[rows], k[rows], v[rows], own, own, g[rows], affinity=affinity, exclude_own=exclude_own
        )
        assert all(torch.equal(x[rows], y) for x, y in zip(together[:5], alone[:5], strict=True))


@pytest.mark.parametrize("exclude_own", [False, True])
def test_memory_of_nobody_is_neither_read_nor_left_unwritten(isa, exclude_own):
    q, k, v, segments, _, g = batch(24)
    clean = run("native", q, k, v, segments, segments, g, exclude_own=exclude_own)
    own = torch.zeros(len(q), dtype=torch.bool)
    for start, n in segments.flatten(0, 1).tolist():
        own[start : start + n] = True
    if exclude_own:  # the second patient has one modality, so its queries see nothing
        silent = own.clone()
        silent[int(segments[1, 1, 0]) : int(segments[1, 1].sum())] = False
    else:
        silent = own
    poisoned = [x.clone() for x in (q, k, v, g)]
    for x, present in zip(poisoned, (silent, own, own, silent), strict=True):
        x[~present] = torch.nan
    found = run("native", *poisoned[:3], segments, segments, poisoned[3], exclude_own=exclude_own)
    assert all(torch.equal(x, y) for x, y in zip(found, clean, strict=True))
    out, lse, dq, dk, dv = found
    assert (out[~silent] == 0).all()
    assert (lse[~silent] == NOTHING).all()
    assert all((x[~own] == 0).all() for x in (dq, dk, dv))


def test_memory_around_the_tensors_is_never_touched(isa):
    """Views into larger buffers full of NaN: nothing of it gets in."""
    args = batch(13)
    plain = run("native", *args)

    def surrounded(x: Tensor) -> Tensor:
        buffer = torch.full((x.shape[0] + 4, x.shape[1] + 2, x.shape[2] + 5), torch.nan, dtype=x.dtype)
        view = buffer[2:-2, 1:-1, 3:-2]
        view.copy_(x)
        return view

    q, k, v, segments, _, g = args
    with use_backend(masked_attention="native"):
        inputs = [surrounded(x).requires_grad_() for x in (q, k, v)]
        out = masked_attention(*inputs, segments, segments)
        found = [out.detach(), *torch.autograd.grad(out, inputs, surrounded(g))]
    assert all(torch.equal(x, y) for x, y in zip(found, [plain[0], *plain[2:]], strict=True))


lengths_of_patients = st.integers(1, 3).flatmap(
    lambda M: st.lists(st.lists(st.integers(0, 6), min_size=M, max_size=M), min_size=1, max_size=4)
)


@settings(deadline=None, max_examples=60)
@given(
    lengths_of_patients,
    st.randoms(use_true_random=False),
    st.sampled_from([(1, 1), (2, 1), (3, 3), (4, 2)]),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
)
def test_drawn_segments_give_what_the_definition_gives(lengths, random, heads, D, with_affinity, exclude_own):
    """Segments in any order on the axis, gaps between them."""
    B, M = len(lengths), len(lengths[0])
    order = [(b, i) for b in range(B) for i in range(M)]
    random.shuffle(order)
    segments, end = torch.zeros(B, M, 2, dtype=torch.int32), random.randrange(3)
    for b, i in order:
        segments[b, i] = torch.tensor([end, lengths[b][i]])
        end += lengths[b][i] + random.randrange(3)
    H, Hkv = heads
    q, k, v = draw(end, H, D, seed=1), draw(end, Hkv, D, seed=2), draw(end, Hkv, D, seed=3)
    g, affinity = draw(end, H, D, seed=4), draw(H, M, M, seed=5) if with_affinity else None
    compare("definition", q, k, v, segments, segments, g, affinity=affinity, exclude_own=exclude_own)


def test_instruction_sets_agree_to_rounding(levels, monkeypatch):
    found = []
    for isa in levels:
        monkeypatch.setenv("RMD_CPU_ISA", isa)
        found.append(run("native", *batch(24), affinity=draw(4, 2, 2, seed=5)))
    for other in found[1:]:
        for x, y in zip(other, found[0], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_scores_of_any_size_give_finite_numbers(isa):
    q, k, v, segments, _, g = batch(16)
    for x in run("native", q * 1e4, k * 1e4, v, segments, segments, g)[:2]:
        assert torch.isfinite(x).all()
    torch.testing.assert_close(
        run("native", q * 30, k, v, segments, segments, g)[0],
        run("torch", q * 30, k, v, segments, segments, g)[0],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_nan_is_passed_on_to_its_patient_and_no_other(isa):
    q, k, v, segments, _, _ = batch(16, H=2, Hkv=2)
    k[3, 1, 5] = torch.nan  # a key of the first patient
    with use_backend(masked_attention="native"):
        out = masked_attention(q, k, v, segments, segments)
    hit = out.isnan().any(2).nonzero()
    assert set(hit[:, 1].tolist()) == {1}
    assert len(hit) == 75
    assert hit[:, 0].max() < 77


def test_what_the_kernels_decline(monkeypatch):
    q, k, v, segments, _, _ = batch(16)
    found = explain("masked_attention", q, k, v, segments, segments)
    assert found.chosen == "native"
    found = explain("masked_attention", q, k, v, segments, segments, dropout_p=0.1, key=philox_key(1))
    assert found.chosen == "torch"
    assert found.declined["native"] == ["dropout, which the kernels do not draw"]
    found = explain("masked_attention", q.double(), k.double(), v.double(), segments, segments)
    assert found.declined["native"] == ["float64, and the kernels compute in float32"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": torch.zeros(3, 2)}, r"q and k have shapes \[3, 2\] and \[7, 1, 4\]"),
        ({"k": torch.zeros(7, 0, 4)}, r"k has shape \[7, 0, 4\], expected a width of at least 1 and heads"),
        ({"v": torch.zeros(6, 1, 4)}, r"v has shape \[6, 1, 4\], expected \[7, 1, 4\]"),
        ({"k": torch.zeros(7, 1, 4).bfloat16()}, r"k has dtype code 15, expected 6 like q"),
        (
            {"q_segments": torch.zeros(1, 2, 2)},
            r"q_segments has dtype code 6 and shape \[1, 2, 2\], expected int32",
        ),
        ({"affinity": torch.zeros(2, 2, 3)}, r"affinity has shape \[2, 2, 3\], expected \[2, 2, 2\]"),
        ({"key": torch.zeros(2, dtype=torch.int64)}, "no dropout"),
    ],
)
def test_the_operator_itself_refuses_what_would_leave_memory(changed, message):
    """Compiled graphs call it without the checks in Python."""
    segments = torch.tensor([[[0, 3], [4, 2]]], dtype=torch.int32)
    given = {
        "q": torch.zeros(7, 2, 4), "k": torch.zeros(7, 1, 4), "v": torch.zeros(7, 1, 4),
        "q_segments": segments, "k_segments": segments, "affinity": None, "key": None,
        "scale": 1.0, "exclude_own": False, "dropout_p": 0.0,
    }  # fmt: skip
    native.forward_op(*given.values())
    with pytest.raises(RuntimeError, match=message):
        native.forward_op(*{**given, **changed}.values())


def test_padded_rows_give_the_bits_of_packed_rows(isa):
    lengths = torch.tensor([[3, 50], [0, 7], [60, 1]])
    padded = segments_from_padded(lengths, [0, 60, 120])
    q, k, v = (draw(360, 2, 24, seed=i) for i in range(3))
    rows = torch.cat([torch.arange(s, s + n) for s, n in padded.flatten(0, 1).tolist()])
    ends = lengths.flatten().cumsum(0)
    tight = torch.stack([(ends - lengths.flatten()).view(3, 2), lengths], -1).int()
    with use_backend(masked_attention="native"):
        loose = masked_attention(q, k, v, padded, padded)
        assert torch.equal(loose[rows], masked_attention(q[rows], k[rows], v[rows], tight, tight))
