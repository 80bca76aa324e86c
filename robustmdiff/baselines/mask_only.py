"""Diagnosis from what was ordered, not from what was found: the check for informative missingness."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.baselines.heads import FindingHeads, class_loss, log_prevalence, probability
from robustmdiff.data.batch import Batch, Panels
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Diagnosis, Encoded


class MaskOnly(nn.Module):
    """Sees which modalities are present, and in panels which cells were measured; never a value.
    Whatever it knows above chance, missingness tells."""

    def __init__(self, task: Task, config: ModelConfig) -> None:
        super().__init__()
        self.task, self.config = task, config
        d, C = config.d_h, len(task.classes)
        self.d = d
        self.present = nn.Parameter(torch.randn(len(task.modalities), d))
        self.cells = nn.ModuleDict(
            {m.name: nn.Linear(len(m.fields), d, bias=False) for m in task.modalities if m.kind == "values"}
        )
        self.mlp = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.head = nn.Linear(d, C)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(log_prevalence(task))
        self.findings = FindingHeads(task, d) if task.findings else None

    def encode(self, batch: Batch) -> Encoded:
        B, M = batch.presence.shape
        H = self.present.expand(B, M, self.d)
        for i, name in enumerate(self.task.modality_names):
            packed = batch.inputs[name]
            if isinstance(packed, Panels) and len(packed.rows):
                told = self.cells[name](packed.present.to(H.dtype))
                H = H.index_put((packed.rows, torch.full_like(packed.rows, i)), told, accumulate=True)
        rows = torch.arange(B * M, device=H.device).view(B, M)
        segments = torch.stack([rows, batch.presence.long()], dim=-1).to(torch.int32)
        return Encoded(tokens=H.reshape(B * M, self.d), segments=segments, H=H)

    def _fuse(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """-> H with absent rows 0 [B, M, d], fused [B, d]."""
        H = encoded.H.masked_fill(~encoded.presence()[..., None], 0)
        return H, self.mlp(H.sum(1))

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """L_class and L_find."""
        student = encoded.keep(kept)
        H, fused = self._fuse(student)
        losses = {"class": class_loss(self.head(fused), batch, weight, self.task)}
        if self.findings is not None:
            losses["find"] = self.findings.loss(fused, H, student.presence(), batch)
        return losses

    @torch.no_grad()
    def diagnose(self, encoded: Encoded, *, draws: int = 16, seed: int = 0) -> Diagnosis:
        """Deterministic: draws and seed change nothing."""
        return Diagnosis(probability(self.head(self._fuse(encoded)[1]), self.task))

    def fit(self, batch: Batch) -> None:
        """Nothing to do: it reads no value."""

    def after_step(self) -> None:
        """Nothing to do: no teacher."""
