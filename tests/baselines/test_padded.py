"""Tokens gathered by segment, against a loop."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.baselines.dropout_transformer import _padded


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), max_size=5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_padded_is_the_loop(lengths, random):
    order = [(b, m) for b in range(len(lengths)) for m in range(3)]
    random.shuffle(order)  # segments lie in any order on the flat axis, with gaps
    segments, at = torch.zeros(len(lengths), 3, 2, dtype=torch.int32), 0
    for b, m in order:
        at += random.randint(0, 2)
        segments[b, m] = torch.tensor([at, lengths[b][m]])
        at += lengths[b][m]
    row, modality = _padded(segments)
    L = max((sum(patient) for patient in lengths), default=0)
    assert row.shape == modality.shape == (len(lengths), L)
    for b, patient in enumerate(lengths):
        expected = [
            (int(segments[b, m, 0]) + j + 1, m) for m, length in enumerate(patient) for j in range(length)
        ]
        got = list(zip(row[b].tolist(), modality[b].tolist(), strict=True))
        assert got[: len(expected)] == expected
        assert all(r == 0 for r, _ in got[len(expected) :])
