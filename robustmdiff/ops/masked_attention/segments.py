"""Segments: where on the flat token axis each modality of each patient lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def segments_from_padded(lengths: Tensor, offsets: Sequence[int] | Tensor) -> Tensor:
    """Segments int32 [B, M, 2] of a padded tensor [B, width, ...] viewed flat as [B * width, ...].

    lengths  int [B, M]: how many tokens of each modality patient b has, 0 = absent.
    offsets  int [M + 1]: the column where each modality begins, and last the width. An int tensor
             [B, M + 1] gives each patient its own, as left padding needs.

    Raises ValueError for shapes and dtypes and, on the CPU, for a modality longer than its columns.
    """
    if lengths.ndim != 2 or lengths.dtype.is_floating_point or lengths.dtype == torch.bool:
        raise ValueError(
            "segments_from_padded: lengths must be integers [patients, modalities], "
            f"got {lengths.dtype} {list(lengths.shape)}"
        )
    B, M = lengths.shape
    column = torch.as_tensor(offsets, dtype=torch.int64, device=lengths.device)
    if column.shape not in ((M + 1,), (B, M + 1)):
        raise ValueError(
            f"segments_from_padded: offsets must be [modalities + 1] = [{M + 1}] or [{B}, {M + 1}], "
            f"got {list(column.shape)}"
        )
    column = column.expand(B, M + 1)
    if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = (lengths < 0) | (lengths > column.diff(dim=1)) | (column[:, :-1] < 0)
        if wrong.any():
            b, i = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"segments_from_padded: lengths[{b}, {i}] is {int(lengths[b, i])}, expected 0 to the columns "
                f"from {int(column[b, i])} to {int(column[b, i + 1])} that offsets gives this modality"
            )
    start = torch.arange(B, device=lengths.device)[:, None] * column[:, -1:] + column[:, :-1]
    return torch.stack([start, lengths], -1).to(torch.int32)


def check_segments(name: str, segments: np.ndarray, rows: int) -> None:
    """Raise unless every segment lies within the rows and no two of them share one.

    segments int [B, M, 2]; the start of an empty segment is not looked at.
    """
    start, length = segments[..., 0].astype(np.int64), segments[..., 1].astype(np.int64)
    wrong = (length < 0) | ((length > 0) & ((start < 0) | (start + length > rows)))
    if wrong.any():
        b, i = np.argwhere(wrong)[0]
        raise ValueError(
            f"masked_attention: {name}[{b}, {i}] is (start {start[b, i]}, length {length[b, i]}), expected "
            f"length >= 0 and a segment within the {rows} rows of the flat axis"
        )
    b, i = np.nonzero(length)
    order = np.argsort(start[b, i], kind="stable")
    b, i = b[order], i[order]
    overlap = np.flatnonzero(start[b[:-1], i[:-1]] + length[b[:-1], i[:-1]] > start[b[1:], i[1:]])
    if overlap.size:
        x, y = overlap[0], overlap[0] + 1
        raise ValueError(
            f"masked_attention: {name}[{b[x]}, {i[x]}] = (start {start[b[x], i[x]]}, length "
            f"{length[b[x], i[x]]}) and {name}[{b[y]}, {i[y]}] = (start {start[b[y], i[y]]}, length "
            f"{length[b[y], i[y]]}) overlap, expected segments that share no row"
        )


def check_own_rows(name: str, segments: np.ndarray, rows: int) -> None:
    """Raise unless the segments of patient b of B lie within its own rows, the b-th of B equal parts: a bias
    has a place for these only."""
    L = rows // len(segments)
    start, length = segments[..., 0].astype(np.int64), segments[..., 1].astype(np.int64)
    first = np.arange(len(segments))[:, None] * L
    wrong = (length > 0) & ((start < first) | (start + length > first + L))
    if wrong.any():
        b, i = np.argwhere(wrong)[0]
        raise ValueError(
            f"masked_attention: {name}[{b}, {i}] is (start {start[b, i]}, length {length[b, i]}), expected "
            f"rows {b * L} to {(b + 1) * L} of patient {b}, as a bias is for padded tokens viewed flat"
        )
