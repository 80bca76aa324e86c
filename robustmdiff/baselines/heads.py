"""What baselines end in, beside their head: the finding labels that ours sees too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.losses import finding_loss


def class_head(d: int, log_prior: Tensor) -> nn.Linear:
    """Logits [C] of a representation [d], at first those of the prevalence."""
    head = nn.Linear(d, len(log_prior))
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(log_prior)
    return head


class FindingHeads(nn.Module):
    """Findings from the fused representation, and from each modality alone: baselines learn from
    the same labels as the model that has findings for concepts."""

    def __init__(self, task: Task, d: int) -> None:
        super().__init__()
        M, F = len(task.modalities), len(task.findings)
        self.together = nn.Linear(d, F)
        self.W = nn.Parameter(torch.randn(M, d, F) * d**-0.5)
        self.b = nn.Parameter(torch.zeros(M, F))

    def alone(self, H: Tensor) -> Tensor:
        """Logits of the findings by each modality, [B, M, d] -> [B, M, F]."""
        return torch.einsum("bmd,mdf->bmf", H, self.W) + self.b

    def loss(self, fused: Tensor, H: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """fused [B, d]; H [B, M, d] with 0 where m bool [B, M] is False."""
        return finding_loss(self.alone(H), self.together(fused), m, batch.findings, batch.findings_known)
