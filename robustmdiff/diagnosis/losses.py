"""L_total = lambda_class L_class + lambda_find L_find + lambda_cons L_cons + lambda_diff L_diff.

Encoders and integration learn from the first three; L_diff is an auxiliary term, whose gradient reaches the
denoiser alone. Left to it, encoders learn to be predictable instead of informative.

Every term is a mean over all patients of a batch, and what is not known counts 0 in it. So the parts of a
batch, weighted by their share of its patients, add up to the whole, however many processes share it or
parts accumulate its gradient. Divided by the patients whose label is known they would not, and a patient
would count more the fewer labels its batch mates have. For the same reason a cell of many labels counts the
same whether or not the patient's others are known: a term is minus the log likelihood of what is known, over
a number that does not depend on it. RobustMDiff and its baselines share these functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from robustmdiff.data.batch import Batch
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.labels import Labels
from robustmdiff.training.config import TrainConfig

TERMS = ("diff", "cons", "class", "find")  # of `Losses`, in its order, as the log calls them


class Losses(NamedTuple):
    """The terms of L_total, scalars; 0 where a model has none."""

    L_diff: Tensor | float = 0.0
    L_cons: Tensor | float = 0.0
    L_class: Tensor | float = 0.0
    L_find: Tensor | float = 0.0


def total_loss(losses: Losses, c: TrainConfig) -> Tensor | float:
    """L_total of the paper, and L_find."""
    L_diff, L_cons, L_class, L_find = losses
    return c.lambda_class * L_class + c.lambda_find * L_find + c.lambda_cons * L_cons + c.lambda_diff * L_diff


def pulls(losses: Losses, encoded: Encoded) -> dict[str, Tensor]:
    """|dL / d(H, tokens)| of each term, by its name in TERMS: how hard it pulls at what the encoders gave,
    before its lambda. The graph is left as it is."""
    given = [x for x in (encoded.H, encoded.tokens) if x.requires_grad]
    norms = {}
    for name, loss in zip(TERMS, losses, strict=True):
        reached: Sequence[Tensor | None] = ()
        if given and isinstance(loss, Tensor) and loss.requires_grad:
            reached = torch.autograd.grad(loss, given, retain_graph=True, allow_unused=True)
        squares = [gradient.float().square().sum() for gradient in reached if gradient is not None]
        norms[name] = sum(squares, start=encoded.H.new_zeros(())).sqrt()
    return norms


def class_loss(labels: Labels, logits: Tensor, batch: Batch, weight: Tensor) -> Tensor:
    """L_class: the cross entropy of the classes, a cell counting weight [B, C] (`RareWeights.loss`). The
    logits learn the weights, too: `DiagnosisModel.probability` takes them off.

    logits [B, C], or [B, R, C]: R answers of each patient, of which the mean counts.
    """
    if weight.shape != batch.label.shape:
        raise ValueError(
            f"class_loss: weight is {list(weight.shape)}, expected {list(batch.label.shape)}, as the labels"
        )
    several = logits if logits.dim() == 3 else logits[:, None]
    label, known, weight = (each[:, None] for each in (batch.label, batch.label_known, weight))
    return labels.loss(several, label, known, weight).mean()


def finding_loss(alone: Tensor, together: Tensor, m: Tensor, holds: Tensor, known: Tensor) -> Tensor:
    """L_find: the cross entropy of the findings, said by each modality that is visible and by all together.

    alone logits [B, M, F], of which those where m bool [B, M] is False are not read; together [B, F];
    holds 0 or 1, known bool [B, F].
    """
    target = holds[:, None].expand_as(alone)
    each = binary_cross_entropy_with_logits(alone.masked_fill(~m[..., None], 0), target, reduction="none")
    both = binary_cross_entropy_with_logits(together, holds, reduction="none")
    return ((mean_where(each, m) + both) * known).mean()


def consistency_loss(Z: Tensor, complete: Tensor, asked: Tensor) -> Tensor:
    """L_cons = |Z(m) - Z(1)|^2, the mean over its elements: Z of what the student sees, and the teacher's
    of everything that was observed, both [B, d_h]; a patient counts asked [B] times, once on average."""
    return ((Z - complete).square().mean(1) * asked).mean()


def mean_where(x: Tensor, m: Tensor) -> Tensor:
    """The mean over the modalities that are visible: x [B, M, ...], m bool [B, M] -> [B, ...]; 0 where none
    is. What stands at the others is finite and counts 0."""
    weight = m.to(x.dtype).view(*m.shape, *[1] * (x.dim() - 2))
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
