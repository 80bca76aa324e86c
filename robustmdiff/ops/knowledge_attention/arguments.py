"""The arguments of knowledge_attention and knowledge_top, checked."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from robustmdiff.ops.registration import FLOATS, autocast


class Arguments(NamedTuple):
    """What the backends take, in the order of the schemas; see `knowledge_attention` for what each means."""

    q: Tensor  # [N, H, d]
    concepts: Tensor  # [k, d]
    log_prior: Tensor | None  # [k]
    scale: float
    n: int = 0  # of knowledge_top: how many concepts a row is given


def arguments(q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float) -> Arguments:
    """Those of `knowledge_attention`: cast by autocast, TypeError or ValueError where wrong."""
    q, concepts = autocast(q, concepts)
    if q.ndim != 3 or q.shape[2] == 0:
        raise ValueError(f"knowledge_attention: q must be [rows, heads, width >= 1], got {list(q.shape)}")
    if concepts.ndim != 2 or concepts.shape[1] != q.shape[2]:
        raise ValueError(
            f"knowledge_attention: concepts must be [k, {q.shape[2]}] like the width of q, "
            f"got {list(concepts.shape)}"
        )
    if concepts.shape[0] == 0:
        raise ValueError("knowledge_attention: concepts has k = 0 rows, expected at least one concept")
    if q.dtype not in FLOATS or concepts.dtype != q.dtype:
        raise TypeError(
            "knowledge_attention: q and concepts must share one of float32, bfloat16, float16, float64, "
            f"got {q.dtype} and {concepts.dtype}"
        )
    if log_prior is not None and log_prior.dtype not in FLOATS:
        raise TypeError(f"knowledge_attention: log_prior must be floating point, got {log_prior.dtype}")
    if log_prior is not None and log_prior.shape != concepts.shape[:1]:
        raise ValueError(
            f"knowledge_attention: log_prior must be [k] = [{concepts.shape[0]}], got {list(log_prior.shape)}"
        )
    for name, tensor in (("concepts", concepts), ("log_prior", log_prior)):
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"knowledge_attention: {name} is on {tensor.device}, expected {q.device} like q")
    return Arguments(q, concepts, log_prior, float(scale))


def top_arguments(
    q: Tensor, concepts: Tensor, log_prior: Tensor | None = None, *, scale: float, n: int
) -> Arguments:
    """Those of `knowledge_top`."""
    a = arguments(q, concepts, log_prior, scale=scale)
    if not 1 <= n <= concepts.shape[0]:
        raise ValueError(f"knowledge_top: n is {n}, expected 1 to k = {concepts.shape[0]}")
    return a._replace(n=n)
