from __future__ import annotations

import pytest
import torch

from robustmdiff.ops import masked_attention, segments_from_padded
from tests.ops.refusal import refuses

Q, K, V = torch.randn(9, 6, 4), torch.randn(9, 3, 4), torch.randn(9, 3, 4)
GOOD = torch.tensor([[[0, 2], [2, 1]], [[3, 0], [5, 4]]], dtype=torch.int32)
KEY = torch.tensor([1, 2])


def segments(*rows: tuple[int, int]) -> torch.Tensor:
    return torch.tensor([[row] for row in rows], dtype=torch.int32)


def call(q=Q, k=K, v=V, q_segments=GOOD, k_segments=GOOD, **settings):
    return masked_attention(q, k, v, q_segments, k_segments, **settings)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"q": Q[0]}, ValueError, r"q and k must be \[tokens, heads, width\].* got \[6, 4\] and \[9, 3, 4\]"),
        ({"q": Q[..., :3]}, ValueError, r"one width.* got \[9, 6, 3\] and \[9, 3, 4\]"),
        ({"v": V[:8]}, ValueError, r"v must be \[9, 3, 4\] like k, got \[8, 3, 4\]"),
        ({"q": Q[:, :5]}, ValueError, r"k has 3 heads, expected a divisor of the 5 heads of q"),
        ({"k": K.double()}, TypeError, r"got torch.float32, torch.float64 and torch.float32"),
        ({"q": Q.int()}, TypeError, r"must share one of float32.* got torch.int32"),
        ({"q_segments": GOOD.long()}, TypeError, r"q_segments must be torch.int32, got torch.int64"),
        ({"k_segments": GOOD[0]}, ValueError,
         r"k_segments must be \[patients, modalities, 2\], got \[2, 2\]"),
        ({"k_segments": GOOD[:1]}, ValueError, r"k_segments has 1 patients, expected 2"),
        ({"q_segments": GOOD[:0], "k_segments": GOOD[:0]}, ValueError, r"q_segments has no patients"),
        ({"q_segments": GOOD[:, :1], "exclude_own": True}, ValueError,
         r"as many query as key .* got 1 and 2"),
        ({"affinity": torch.zeros(6, 2, 3)}, ValueError, r"affinity must be .*\[6, 2, 2\], got \[6, 2, 3\]"),
        ({"affinity": torch.zeros(6, 2, 2).int()}, TypeError,
         r"affinity must be floating point, got torch.int32"),
        ({"dropout_p": 1.0, "key": KEY}, ValueError, r"dropout_p is 1.0, expected 0 <= dropout_p < 1"),
        ({"dropout_p": 0.5}, ValueError, r"dropout_p is 0.5 and key is None"),
        ({"key": KEY}, ValueError, r"exactly where dropout_p > 0"),
        ({"dropout_p": 0.5, "key": KEY.float()}, ValueError,
         r"key must be int64 \[2\].* got torch.float32 \[2\]"),
        ({"k": K.to("meta"), "v": V.to("meta")}, ValueError, r"k is on meta, expected cpu like q"),
        ({"out": torch.zeros(9, 6, 3)}, ValueError, r"out is torch.float32 \[9, 6, 3\]"),
        ({"out": torch.zeros(9, 6, 4), "q": Q.clone().requires_grad_()}, ValueError, r"use torch.no_grad"),
        ({"k_segments": segments((0, 4), (5, -1))}, ValueError,
         r"k_segments\[1, 0\] is \(start 5, length -1\)"),
        ({"k_segments": segments((-1, 4), (5, 1))}, ValueError,
         r"k_segments\[0, 0\] is \(start -1, length 4\)"),
        ({"q_segments": segments((0, 4), (6, 4))}, ValueError, r"q_segments\[1, 0\] .* within the 9 rows"),
        ({"q_segments": segments((2, 4), (0, 3))}, ValueError,
         r"q_segments\[1, 0\] = .* and q_segments\[0, 0\] = .* overlap"),
        ({"k_segments": segments((2**31 - 1, 2), (0, 3))}, ValueError, r"start 2147483647, length 2"),
    ],
)  # fmt: skip
def test_the_error_names_argument_value_and_expectation(changed, error, message):
    refuses("masked_attention", lambda: call(**changed), error, "^masked_attention: .*" + message)


def test_an_empty_segment_may_start_anywhere():
    anywhere = GOOD.clone()
    anywhere[1, 0] = torch.tensor([-7, 0])
    assert torch.equal(call(k_segments=anywhere, q_segments=anywhere), call())


def test_bad_segments_raise_before_anything_is_written():
    out = torch.full_like(Q, 5.0)
    with pytest.raises(ValueError, match="overlap"):
        call(k_segments=segments((2, 4), (0, 3)), q_segments=segments((0, 1), (1, 1)), out=out)
    assert (out == 5).all()


def test_out_is_written_and_returned():
    out = torch.full_like(Q, torch.nan)
    assert call(out=out) is out
    assert torch.equal(out, call())
    with torch.no_grad():
        assert call(q=(Q + 1).requires_grad_(), out=out) is out
    assert torch.equal(out, call(q=Q + 1))


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_out_may_be_an_input(name):
    """Which is read while the rest of the result is still to come."""
    given = {"q": K.clone(), "k": K.clone(), "v": V.clone()}
    expected = call(**given)
    assert torch.equal(call(**given, out=given[name]), expected)


@pytest.mark.parametrize(
    ("lengths", "offsets", "message"),
    [
        (torch.tensor([[1.0]]), [0, 1], r"lengths must be integers .*got torch.float32 \[1, 1\]"),
        (torch.tensor([1]), [0, 1], r"lengths must be integers"),
        (torch.tensor([[1, 2]]), [0, 2], r"offsets must be \[modalities \+ 1\] = \[3\] .*got \[2\]"),
        (torch.tensor([[1, 3]]), [0, 2, 4], r"lengths\[0, 1\] is 3, expected .* from 2 to 4"),
        (torch.tensor([[-1, 3]]), [0, 2, 5], r"lengths\[0, 0\] is -1"),
    ],
)
def test_segments_from_padded_names_what_is_wrong(lengths, offsets, message):
    with pytest.raises(ValueError, match=message):
        segments_from_padded(lengths, offsets)


def test_segments_from_padded_are_rows_of_the_flat_view():
    found = segments_from_padded(torch.tensor([[2, 0], [1, 3]]), [0, 2, 5])
    assert found.dtype == torch.int32
    assert found.tolist() == [[[0, 2], [2, 0]], [[5, 1], [7, 3]]]
