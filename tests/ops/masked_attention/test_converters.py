"""Other libraries' batches as segments: the attention they describe, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from robustmdiff.ops import (
    masked_attention,
    segments_from_block_diagonal,
    segments_from_key_padding,
    segments_from_nested,
    segments_from_padded,
)
from robustmdiff.ops.masked_attention import converters

H, D = 3, 5


class BlockDiagonalMask(SimpleNamespace):
    """The fields of xformers' class that are read, for where xformers is not installed."""


class BlockDiagonalCausalMask(BlockDiagonalMask):
    pass


def draw(*lengths: int) -> list[torch.Tensor]:
    return [torch.randn(n, H, D, dtype=torch.float64) for n in lengths]


def dense(q, k, v, bias):
    """[T, H, D] with a bias [Tq, Tk]"""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, bias)[0].transpose(0, 1)


def test_block_diagonal_without_xformers():
    info = lambda *ends: SimpleNamespace(seqstart=torch.tensor(ends, dtype=torch.int32))  # noqa: E731
    q_segments, k_segments = segments_from_block_diagonal(
        BlockDiagonalMask(q_seqinfo=info(0, 3, 4), k_seqinfo=info(0, 0, 6))
    )
    assert q_segments.tolist() == [[[0, 3]], [[3, 1]]]
    assert k_segments.tolist() == [[[0, 0]], [[0, 6]]]
    assert q_segments.dtype == torch.int32


@pytest.mark.parametrize("mask", [BlockDiagonalCausalMask(), None, torch.zeros(3, 3)])
def test_a_mask_that_hides_more_is_refused(mask):
    with pytest.raises(
        TypeError, match=f"mask is a {type(mask).__name__}, expected a BlockDiagonalMask or a"
    ):
        segments_from_block_diagonal(mask)


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded-keys"])
def test_block_diagonal_is_what_xformers_means(padded):
    masks = pytest.importorskip("xformers.ops.fmha.attn_bias", reason="xformers is not installed")
    if padded:
        mask = masks.BlockDiagonalPaddedKeysMask.from_seqlens([3, 1, 2], 7, [2, 7, 1], causal_diagonal=None)
        Tk = 21
    else:
        mask, Tk = masks.BlockDiagonalMask.from_seqlens([3, 1, 2], [2, 7, 1]), 10
    q, k, v = draw(6, Tk, Tk)
    ours = masked_attention(q, k, v, *segments_from_block_diagonal(mask))
    torch.testing.assert_close(ours, dense(q, k, v, mask.materialize((6, Tk), dtype=torch.float64)))
    for other in (masks.BlockDiagonalMask.from_seqlens([3], [4]).make_causal(), masks.LowerTriangularMask()):
        with pytest.raises(TypeError, match=f"mask is a {type(other).__name__}"):
            segments_from_block_diagonal(other)


def test_nested_is_what_torch_computes():
    lengths = [3, 1, 5]
    x = torch.nested.nested_tensor(draw(*lengths), layout=torch.jagged)
    theirs = scaled_dot_product_attention(*(x.transpose(1, 2) for _ in range(3))).transpose(1, 2)
    segments = segments_from_nested(x)
    values = x.values()
    ours = masked_attention(values, values, values, segments, segments)
    torch.testing.assert_close(ours, theirs.values())


def test_nested_with_an_empty_row_and_with_gaps():
    x = torch.nested.nested_tensor(draw(2, 0, 3), layout=torch.jagged)
    assert segments_from_nested(x).tolist() == [[[0, 2]], [[2, 0]], [[2, 3]]]
    starts, lengths = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 3])
    narrow = torch.nested.narrow(torch.randn(3, 6, D), 1, starts, lengths, layout=torch.jagged)
    assert segments_from_nested(narrow).tolist() == [[[0, 2]], [[7, 0]], [[14, 3]]]


def test_nested_errors():
    with pytest.raises(TypeError, match=r"x is a plain tensor \[2, 3\], expected a nested tensor"):
        segments_from_nested(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"nested with layout torch.strided, expected .* torch.jagged"):
        segments_from_nested(torch.nested.nested_tensor(draw(2, 3), layout=torch.strided))
    jagged = torch.nested.nested_tensor(draw(2, 3), layout=torch.jagged)
    with pytest.raises(ValueError, match="ragged along axis 2, expected axis 1"):
        segments_from_nested(jagged.transpose(1, 2))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_key_padding_finds_every_stretch(data):
    """Each row of each modality is one stretch anywhere in its columns, possibly empty."""
    B, widths = data.draw(st.integers(1, 4)), data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    offsets = torch.tensor([0, *widths]).cumsum(0).tolist()
    mask = torch.ones(B, offsets[-1], dtype=torch.bool)
    expected = torch.zeros(B, len(widths), 2, dtype=torch.int32)
    for b in range(B):
        for i, (begin, width) in enumerate(zip(offsets, widths, strict=False)):
            first = data.draw(st.integers(0, width))
            length = data.draw(st.integers(0, width - first))
            mask[b, begin + first : begin + first + length] = False
            expected[b, i] = torch.tensor([b * offsets[-1] + begin + first, length])
    found = segments_from_key_padding(mask, offsets)
    there = expected[..., 1] > 0
    assert found.dtype == torch.int32
    assert torch.equal(found[..., 1], expected[..., 1])
    assert torch.equal(found[there], expected[there])


def test_key_padding_is_torchs():
    mask = torch.tensor([[False, False, False, True], [False, True, False, True]])  # with a hole
    attention = torch.nn.MultiheadAttention(H * D, H, bias=False, batch_first=True).double()
    x = torch.randn(2, 4, H * D, dtype=torch.float64)
    theirs = attention(x, x, x, key_padding_mask=mask)[0]
    q, k, v = (x @ W.T for W in attention.in_proj_weight.chunk(3))
    q, k, v = (y.unflatten(-1, (H, D)).flatten(0, 1) for y in (q, k, v))
    queries = segments_from_padded(torch.tensor([[4], [4]]), [0, 4])
    out = masked_attention(q, k, v, queries, segments_from_key_padding(mask))
    ours = attention.out_proj(out.flatten(1)).unflatten(0, (2, 4))
    torch.testing.assert_close(ours, theirs)


def segments_of(mask: torch.Tensor) -> list[list[tuple[int, int]]]:
    """(start, length) of each stretch of a row, found by walking over it."""
    found = []
    for b, row in enumerate(mask.tolist()):
        starts = [i for i, gone in enumerate(row) if not gone and (i == 0 or row[i - 1])]
        ends = [i + 1 for i, gone in enumerate(row) if not gone and (i + 1 == len(row) or row[i + 1])]
        found.append([(b * len(row) + i, j - i) for i, j in zip(starts, ends, strict=True)])
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_stretch_of_a_mask_with_holes_is_a_segment(data):
    B, L = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 9))
    rows = [data.draw(st.lists(st.booleans(), min_size=L, max_size=L)) for _ in range(B)]
    mask = torch.tensor(rows, dtype=torch.bool).view(B, L)
    expected = segments_of(mask)
    found = segments_from_key_padding(mask)
    assert found.dtype == torch.int32
    assert found.shape == (B, max(1, *map(len, expected), 1), 2)
    for row, stretches in zip(found.tolist(), expected, strict=True):
        assert [(start, length) for start, length in row if length] == stretches


COMPILED = {"fullgraph": True, "dynamic": True, "backend": "aot_eager"}


@pytest.mark.parametrize("L", [0, 1, 2, 7, 150])
def test_a_compiled_graph_has_room_for_any_number_of_holes(L):
    mask = torch.rand(3, L) < 0.5
    mask[0, ::2], mask[0, 1::2] = False, True  # as many stretches as there can be
    found = torch.compile(segments_from_key_padding, **COMPILED)(mask)
    assert found.shape == (3, max(1, (L + 1) // 2), 2)
    for row, stretches in zip(found.tolist(), segments_of(mask), strict=True):
        assert [(start, length) for start, length in row if length] == stretches


def test_a_hole_in_a_modality_is_an_assertion_in_a_compiled_graph():
    mask = torch.tensor([[False, False, True, False, True], [True, False, False, False, False]])
    compiled = torch.compile(segments_from_key_padding, **COMPILED)
    assert torch.equal(compiled(mask, (0, 3, 5)), segments_from_key_padding(mask, (0, 3, 5)))
    with pytest.raises(RuntimeError, match="has a hole in columns 0 to 5, expected one stretch"):
        compiled(mask, (0, 5))


def test_too_many_holes_on_a_device_are_an_assertion(monkeypatch):
    """On a GPU there is room for 64 stretches; here for 3, on a CPU that passes for one."""
    assert [converters._room(L, torch.device("cuda")) for L in (0, 1, 9, 127, 512)] == [1, 1, 5, 64, 64]
    monkeypatch.setattr(converters, "_can_look", lambda x: False)
    monkeypatch.setattr(converters, "_room", lambda L, device: 3)
    mask = torch.tensor([[False, True] * 3 + [True] * 2])
    assert segments_from_key_padding(mask).tolist() == [[[0, 1], [2, 1], [4, 1]]]
    with pytest.raises(RuntimeError, match="a row has more than 3 stretches that are not padding"):
        segments_from_key_padding(torch.tensor([[False, True] * 4]))


def test_key_padding_compiles_whole():
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]])
    compiled = torch.compile(segments_from_key_padding, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(mask, (0, 1, 4)), segments_from_key_padding(mask, (0, 1, 4)))


@pytest.mark.parametrize(
    ("mask", "offsets", "message"),
    [
        ([[0, 0, 1], [0, 1, 0]], (0, 3), r"mask\[1\] has 2 columns .* from 0 on, with a hole at column 1"),
        ([[1, 0, 0, 1, 0, 0, 1, 0]], (0, 3, 8), r"mask\[0\] has 3 columns .* 4 on, with a hole at column 6"),
        ([[0, 1]], (0, 1), r"offsets is \[0, 1\], expected columns from 0 to 2"),
        ([[0, 1]], (0, 2, 1, 2), r"offsets is \[0, 2, 1, 2\]"),
        ([0, 1], None, r"must be bool \[rows, columns\], got torch.bool \[2\]"),
    ],
)
def test_key_padding_errors(mask, offsets, message):
    with pytest.raises(ValueError, match=message):
        segments_from_key_padding(torch.tensor(mask).bool(), offsets)


def test_a_key_padding_mask_is_bool():
    with pytest.raises(ValueError, match=r"got torch.int64 \[2, 3\]"):
        segments_from_key_padding(torch.zeros(2, 3, dtype=torch.int64))
