"""knowledge_attention with the weight of every row and concept kept for the backward pass, in torch.

This saves one product of five. `pays` says where it was measured to; there `auto` takes torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.compiler import is_compiling

from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.knowledge_attention.absent import absent_concepts
from robustmdiff.ops.knowledge_attention.arguments import Arguments

WEIGHTS = 2**22  # at most: 16 MB
ROWS, WIDTH = 256, 128  # at least


def pays(a: Arguments) -> bool:
    """Whether torch's own products are faster than a kernel that makes the weights twice: many wide rows, at
    least as many as concepts. Of plain tensors only, whose values can be read."""
    (N, H, d), k = a.q.shape, a.concepts.shape[0]
    return (
        type(a.q) is Tensor
        and a.q.is_cpu
        and a.q.dtype == torch.float32
        and not is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and d >= WIDTH
        and max(ROWS, k) <= N * H <= WEIGHTS // k
    )


def forward(q: Tensor, concepts: Tensor, log_prior: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """out [N, H, d], weights [N * H, k]."""
    K, absent = _present(concepts, log_prior)
    queries = q.flatten(0, 1) * scale
    scores = queries @ K.T if log_prior is None else torch.addmm(log_prior.to(q.dtype), queries, K.T)
    if absent is not None and absent.all():
        return q.new_zeros(q.shape), torch.zeros_like(scores)
    weights = scores.softmax(-1)
    return (weights @ K).view(q.shape), weights


def backward(
    grad_out: Tensor,
    out: Tensor,
    weights: Tensor,
    q: Tensor,
    concepts: Tensor,
    log_prior: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    K, absent = _present(concepts, log_prior)
    grads = grad_out.flatten(0, 1)
    if absent is not None and absent.all():  # a row that saw nothing does not look at its gradient
        grads = torch.zeros_like(grads)
    dscores = (grads @ K.T).sub_((grads * out.flatten(0, 1)).sum(-1, keepdim=True)).mul_(weights)
    dq = (dscores @ K).mul_(scale).view(q.shape)
    dK = torch.addmm(weights.T @ grads, dscores.T, q.flatten(0, 1), alpha=scale)
    dprior = None if log_prior is None else dscores.sum(0).to(log_prior.dtype)
    return dq, dK, dprior


def _present(concepts: Tensor, log_prior: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The concepts with 0 in place of what absent ones hold, and which are absent."""
    absent = absent_concepts(log_prior)
    return concepts if absent is None else concepts.masked_fill(absent[:, None], 0), absent


run = differentiable(
    "knowledge_attention",
    forward,
    backward,
    tensors=(0, 1, 2),
    wrt=(0, 1, 2),
    outputs=(True, False),
    keep_outputs=True,
)
