"""Diagnosis from what was ordered, not from what was found: the check for informative missingness."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.baselines.heads import FindingHeads, class_head
from robustmdiff.data.batch import Batch
from robustmdiff.data.kinds.values import Panels
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded


class MaskOnly(DiagnosisModel):
    """Sees which modalities are present, and in panels which cells were measured; never a value.
    Whatever it knows above chance, missingness tells."""

    def __init__(self, task: Task, config: ModelConfig) -> None:
        super().__init__(task, config, encoders=None)
        d = config.d_h
        self.d = d
        self.present = nn.Parameter(torch.randn(len(task.modalities), d))
        self.cells = nn.ModuleDict(
            {m.name: nn.Linear(len(m.fields), d, bias=False) for m in task.of_kind("values")}
        )
        self.mlp = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.head = class_head(d, self.labels.log_prior(task.prevalence))
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
        H = encoded.H.masked_fill(~encoded.m[..., None], 0)
        return H, self.mlp(H.sum(1))

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class and L_find."""
        student = encoded.keep(kept)
        H, fused = self._fuse(student)
        return Losses(
            L_class=class_loss(self.labels, self.head(fused), batch, weight),
            L_find=0.0 if self.findings is None else self.findings.loss(fused, H, student.m, batch),
        )

    def classify(self, encoded: Encoded) -> Logits:
        return Logits(self.head(self._fuse(encoded)[1]))
