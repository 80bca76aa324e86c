"""A transformer over the tokens of everything present, trained with modality dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.baselines.heads import FindingHeads, class_head
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.nn.dropout import of_rows

PATIENTS_AT_ONCE = 16  # sorted by length first, so that little is padded


class DropoutTransformer(DiagnosisModel):
    """A class token, the patient's tokens with an embedding of their modality, `config.layers`
    layers of plain PyTorch attention, a linear head. The dropout is `kept` of the trainer, so its
    schedule is ours; nothing present leaves the class token alone, which is a learned prior."""

    def __init__(self, task: Task, config: ModelConfig) -> None:
        super().__init__(task, config, ModalityEncoders(task, config))
        d, M = config.d_h, len(task.modalities)
        self.modality = nn.Parameter(torch.randn(M, d) * 0.02)
        self.class_token = nn.Parameter(torch.randn(d) * 0.02)
        layer = nn.TransformerEncoderLayer(
            d, config.heads, 2 * d, config.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        layer.self_attn.dropout = 0.0  # of attention weights, which the encoders do not drop either
        self.transformer = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(d), enable_nested_tensor=False
        )
        self.head = class_head(d, self.labels.log_prior(task.prevalence))
        self.findings = FindingHeads(task, d) if task.findings else None

    def _fuse(self, encoded: Encoded) -> Tensor:
        """-> the class token after the last layer [B, d]."""
        row, modality = _padded(encoded.segments)
        # row 0 of the gathered tokens is the padding; hidden tokens are never gathered
        tokens = torch.cat([encoded.tokens.new_zeros(1, encoded.tokens.shape[1]), encoded.tokens])
        if len(row) == 0:
            return tokens[:0]
        order = (row > 0).sum(1).argsort()
        fused = []
        for b in order.split(PATIENTS_AT_ONCE):
            with of_rows(b):
                fused.append(self._read(tokens, row[b], modality[b]))
        return torch.cat(fused)[order.argsort()]

    def _read(self, tokens: Tensor, row: Tensor, modality: Tensor) -> Tensor:
        """A few patients of similar length, row and modality [b, L] -> [b, d]."""
        L = int((row > 0).sum(1).max())
        row, modality = row[:, :L], modality[:, :L]
        x = tokens[row] + self.modality[modality] * (row > 0)[..., None]  # [b, L, d]
        first = self.class_token.to(x.dtype).expand(len(x), 1, -1)
        padding = torch.cat([row.new_zeros(len(x), 1, dtype=torch.bool), row == 0], dim=1)
        return self.transformer(torch.cat([first, x], dim=1), src_key_padding_mask=padding)[:, 0]

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class and L_find."""
        student = encoded.keep(kept)
        fused = self._fuse(student)
        H = student.H.masked_fill(~student.m[..., None], 0)
        return Losses(
            L_class=class_loss(self.labels, self.head(fused), batch, weight),
            L_find=0.0 if self.findings is None else self.findings.loss(fused, H, student.m, batch),
        )

    def classify(self, encoded: Encoded) -> Logits:
        fused = self._fuse(encoded)
        if self.findings is None:
            return Logits(self.head(fused))
        findings = self.findings.together(fused).sigmoid()
        return Logits(self.head(fused), lambda p: findings)


def _padded(segments: Tensor) -> tuple[Tensor, Tensor]:
    """segments int32 [B, M, 2] -> for each patient, 1 + the row of each of its tokens, end to end and
    filled up with 0, int64 [B, L]; and the modality it belongs to, int64 [B, L]."""
    start, length = segments.long().unbind(-1)  # [B, M]
    end = length.cumsum(1)  # where a modality's tokens end in the patient's own sequence
    B, M = length.shape
    L = int(end[:, -1].max()) if B else 0
    position = torch.arange(L, device=segments.device).expand(B, L).contiguous()
    modality = torch.searchsorted(end, position, right=True)  # [B, L]; M past the end
    there = modality < M
    modality = modality.clamp(max=M - 1)
    row = 1 + position - (end - length).gather(1, modality) + start.gather(1, modality)
    return row * there, modality
