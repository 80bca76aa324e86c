"""masked_attention in the situations that its backends are tested in."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.ops import masked_attention, segments_from_padded
from robustmdiff.ops.triton_support import INTERPRETED
from robustmdiff.testing.case import Case, draw


def segments(lengths: list[list[int]], columns: list[int]) -> Tensor:
    return segments_from_padded(torch.tensor(lengths), columns)


def segments_of_packed(lengths: Tensor) -> tuple[Tensor, int]:
    """Segments of tokens that lie end to end, absent modalities taking no room, and how many there are."""
    ends = lengths.flatten().cumsum(0).view_as(lengths)
    return torch.stack([ends - lengths, lengths], -1).to(torch.int32), int(ends[-1, -1])


def rows_of(segments: Tensor, rows: int) -> Tensor:
    present = torch.zeros(rows, dtype=torch.bool)
    for start, length in segments.flatten(0, 1).tolist():
        present[start : start + length] = True
    return present


def rows_and_modalities(segments: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each patient the rows of the flat axis that it owns, and the modality of each."""
    return [
        (
            torch.cat([torch.arange(start, start + length) for start, length in patient]),
            torch.arange(len(patient)).repeat_interleave(torch.tensor([length for _, length in patient])),
        )
        for patient in segments.tolist()
    ]


def masked_case(
    name: str,
    k_segments: Tensor,
    Tk: int,
    q_segments: Tensor | None = None,
    Tq: int | None = None,
    H: int = 6,
    Hkv: int = 6,
    D: int = 7,
    affinity: bool = False,
    exclude_own: bool = False,
) -> Case:
    q_segments, Tq = k_segments if q_segments is None else q_segments, Tk if Tq is None else Tq
    patients = list(zip(rows_and_modalities(q_segments), rows_and_modalities(k_segments), strict=True))

    def plain(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None = None) -> Tensor:
        """Dense for each patient: every query of the patient by every key of the patient."""
        k, v = (x.repeat_interleave(H // Hkv, 1) for x in (k, v))
        outs = []
        for (q_rows, i), (k_rows, j) in patients:
            scores = torch.einsum("qhd,khd->hqk", q[q_rows], k[k_rows]) * D**-0.5
            if affinity is not None:
                scores = scores + affinity[:, i][:, :, j]
            hidden = (i[:, None] == j).to(q.device) & exclude_own
            weights = scores.masked_fill(hidden, torch.finfo(q.dtype).min).softmax(-1) * ~hidden
            outs.append(torch.einsum("hqk,khd->qhd", weights, v[k_rows]))
        rows = torch.cat([q_rows for (q_rows, _), _ in patients]).to(q.device)
        return torch.zeros_like(q).index_put((rows,), torch.cat(outs))

    def run(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor | None = None) -> Tensor:
        segments = q_segments.to(q.device), k_segments.to(q.device)
        return masked_attention(q, k, v, *segments, affinity=affinity, exclude_own=exclude_own)

    tensors = {"q": draw(Tq, H, D, seed=1), "k": draw(Tk, Hkv, D, seed=2), "v": draw(Tk, Hkv, D, seed=3)}
    if affinity:
        tensors["affinity"] = draw(H, q_segments.shape[1], k_segments.shape[1], seed=4)
    silent = torch.ones(Tq, dtype=torch.bool)
    for (q_rows, i), (_, j) in patients:
        silent[q_rows] = ~((i[:, None] != j) | (not exclude_own)).any(1)
    absent = ~rows_of(k_segments, Tk)
    return Case(
        "masked_attention", name, tensors, run, plain, {"q": silent, "k": absent, "v": absent}, silent
    )


def cases() -> list[Case]:
    ragged = segments([[4, 3, 5], [0, 2, 4], [0, 0, 0], [1, 0, 0], [3, 3, 5]], [0, 4, 8, 13])
    one_row = torch.tensor([[[i, 1]] for i in range(5)], dtype=torch.int32)
    packed = torch.tensor([[[7, 2], [0, 0]], [[0, 3], [4, 2]]], dtype=torch.int32)
    left = segments_from_padded(torch.tensor([[2], [5], [0]]), torch.tensor([[3, 5], [0, 5], [5, 5]]))

    def case(
        name: str,
        k_segments: Tensor,
        Tk: int,
        q_segments: Tensor | None = None,
        Tq: int | None = None,
        shared: int = 1,
        affinity: bool = False,
        exclude_own: bool = False,
    ) -> Case:
        heads = 2 if INTERPRETED else 6  # a program of a kernel takes milliseconds there
        own = max(heads // shared, 1)
        rest = (heads, own, 7, affinity, exclude_own)
        return masked_case(name, k_segments, Tk, q_segments, Tq, *rest)

    return [
        case("some-absent", ragged, 65),
        case("nothing-present", segments([[0, 0], [0, 0], [0, 0]], [0, 2, 5]), 15),
        case("no-tokens-at-all", torch.zeros(2, 3, 2, dtype=torch.int32), 0),
        case("one-token", torch.tensor([[[0, 1]]], dtype=torch.int32), 1),
        case("everything-present", segments([[3, 2], [3, 2], [3, 2]], [0, 3, 5]), 15),
        case("packed-out-of-order", packed, 9),
        case("left-padded", left, 15),
        case("learned-queries", ragged, 65, one_row, 5),
        case("shared-key-heads", ragged, 65, shared=3),
        case("affinity", ragged, 65, affinity=True),
        case("affinity-shared-key-heads", ragged, 65, shared=2, affinity=True),
        case("exclude-own", ragged, 65, exclude_own=True),
        case("affinity-exclude-own", ragged, 65, shared=3, affinity=True, exclude_own=True),
    ]
