"""The schema of masked_attention, its shape rule and its cost; one pair of operators a backend."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.ops.registration import define, lse_dtype

INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor q_segments, Tensor k_segments, Tensor? affinity, Tensor? key, "
    "float scale, bool exclude_own, float dropout_p"
)
FORWARD = f"({INPUTS}) -> (Tensor out, Tensor lse)"
BACKWARD = f"(Tensor grad_out, Tensor out, Tensor lse, {INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)"
TENSORS, WRT = 7, (0, 1, 2, 5)

# The same with a bias for each pair of rows and a cap on the scores, which not every backend has.
BIASED_INPUTS = INPUTS.replace("Tensor? key", "Tensor? key, Tensor? bias") + ", float? softcap"
BIASED_FORWARD = f"({BIASED_INPUTS}) -> (Tensor out, Tensor lse)"
BIASED_BACKWARD = (
    f"(Tensor grad_out, Tensor out, Tensor lse, {BIASED_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
BIASED_TENSORS, BIASED_WRT = 8, (0, 1, 2, 5, 7)


def fake_forward(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=lse_dtype(q.dtype))


def fake_backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    daffinity = q.new_empty(0) if affinity is None else affinity.new_empty(affinity.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), daffinity


def fake_biased_backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    bias: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dbias = q.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return *fake_backward(grad_out, out, lse, q, k, v, q_segments, k_segments, affinity), dbias


def forward_flops(
    q: Tensor, k: Tensor, v: Tensor, q_segments: Tensor, k_segments: Tensor, *_: Any, **__: Any
) -> int:
    """2 multiply-adds for each width, head and pair (query, key) of one patient."""
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(q, FakeTensor) or q.is_meta:
        pairs = q.shape[0] * k.shape[0]  # no values to read: the most it can be
    else:
        pairs = int((q_segments[..., 1].sum(1).long() * k_segments[..., 1].sum(1)).sum())
    return 4 * pairs * q.shape[1] * q.shape[2]


def backward_flops(grad_out: Tensor, out: Tensor, lse: Tensor, *inputs: Any, **_: Any) -> int:
    return forward_flops(*inputs) * 5 // 2


def declare(suffix: str) -> tuple[Any, Any]:
    """Define the forward and the backward operator of one backend; "" is the native one."""
    return (
        define(f"masked_attention_fwd{suffix}", FORWARD, fake_forward, forward_flops),
        define(f"masked_attention_bwd{suffix}", BACKWARD, fake_backward, backward_flops),
    )


def declare_biased(suffix: str) -> tuple[Any, Any]:
    """The same for a backend that takes a bias and a soft cap."""
    return (
        define(f"masked_attention_biased_fwd{suffix}", BIASED_FORWARD, fake_forward, forward_flops),
        define(f"masked_attention_biased_bwd{suffix}", BIASED_BACKWARD, fake_biased_backward, backward_flops),
    )


def biased_reasons(bias: Tensor | None = None, softcap: float | None = None) -> list[str]:
    """Why a backend without them cannot take these."""
    found = []
    if bias is not None:
        found.append("a bias for each query and key, which the kernels do not add")
    if softcap is not None:
        found.append("a softcap, which the kernels do not apply")
    return found
