"""The operators of masked_attention as torch's dispatcher knows them: one pair a backend."""

from __future__ import annotations

from robustmdiff.ops.attention import AttentionSchema
from robustmdiff.ops.masked_attention.arguments import Arguments


def flops(a: Arguments) -> int:
    """2 multiply-adds for each width, head and pair (query, key) of one patient."""
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(a.q, FakeTensor) or a.q.is_meta:
        pairs = a.q.shape[0] * a.k.shape[0]  # no values to read: the most it can be
    else:
        pairs = int((a.q_segments[..., 1].sum(1).long() * a.k_segments[..., 1].sum(1)).sum())
    return 4 * pairs * a.q.shape[1] * a.q.shape[2]


PLAIN = AttentionSchema(
    "masked_attention", Arguments, Arguments._fields[:10], ("q", "k", "v", "affinity"), flops
)
# The same with a bias for each pair of rows and a cap on the scores, which not every backend has.
BIASED = AttentionSchema(
    "masked_attention_biased", Arguments, Arguments._fields[:12], (*PLAIN.wrt, "bias"), flops
)


def biased_reasons(a: Arguments) -> list[str]:
    """Why a backend of the plain operators cannot take these."""
    found = []
    if a.bias is not None:
        found.append("a bias for each query and key, which the kernels do not add")
    if a.softcap is not None:
        found.append("a softcap, which the kernels do not apply")
    return found
