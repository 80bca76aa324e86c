"""What every baseline ends in: logits over the classes, and the finding labels that ours sees too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task


def log_prevalence(task: Task) -> Tensor:
    """Logits [C] whose softmax (sigmoid if multilabel) is the prevalence of the task."""
    prevalence = torch.tensor(task.prevalence).clamp(1e-5, 1 - 1e-5)
    return prevalence.logit() if task.multilabel else prevalence.log()


def probability(logits: Tensor, task: Task) -> Tensor:
    """[..., C] -> [..., C]."""
    return logits.sigmoid() if task.multilabel else logits.softmax(-1)


def class_loss(logits: Tensor, batch: Batch, weight: Tensor, task: Task) -> Tensor:
    """Cross entropy of logits [B, C], patient b counting weight[b]; unknown labels do not count."""
    if task.multilabel:
        loss = binary_cross_entropy_with_logits(logits, batch.label, reduction="none")
        return (loss * batch.label_known * weight[:, None]).sum() / batch.label_known.sum().clamp(min=1)
    known = batch.label_known.all(1)
    loss = cross_entropy(logits, batch.label, reduction="none")
    return (loss * known * weight).sum() / known.sum().clamp(min=1)


class FindingHeads(nn.Module):
    """Findings from the fused representation, and from each modality alone: baselines learn from
    the same labels as the model that has findings for concepts."""

    def __init__(self, task: Task, d: int) -> None:
        super().__init__()
        M, F = len(task.modalities), len(task.findings)
        self.together = nn.Linear(d, F)
        self.W = nn.Parameter(torch.randn(M, d, F) * d**-0.5)
        self.b = nn.Parameter(torch.zeros(M, F))

    def loss(self, fused: Tensor, H: Tensor, present: Tensor, batch: Batch) -> Tensor:
        """fused [B, d]; H [B, M, d] with 0 where present bool [B, M] is False."""
        alone = torch.einsum("bmd,mdf->bmf", H, self.W) + self.b
        counts = batch.findings_known[:, None] & present[..., None]  # [B, M, F]
        known = batch.findings_known
        each = binary_cross_entropy_with_logits(
            alone, batch.findings[:, None].expand_as(alone), reduction="none"
        )
        both = binary_cross_entropy_with_logits(self.together(fused), batch.findings, reduction="none")
        return (each * counts).sum() / counts.sum().clamp(min=1) + (both * known).sum() / known.sum().clamp(
            min=1
        )
