"""From what is present to one latent: Z(m) = sum_i m_i W_i(m) (H_i + A_med K) / sum_i m_i."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.nn import KnowledgeAttention, MaskedCrossModalAttention


class CrossModalLayer(nn.Module):
    """Summaries read the tokens of every modality present; then each is transformed alone."""

    def __init__(self, config: ModelConfig, modalities: int) -> None:
        super().__init__()
        d = config.d_h
        self.norm = nn.LayerNorm(d)
        self.attend = MaskedCrossModalAttention(d, config.heads, modalities=modalities)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(2 * d, d)
        )

    def forward(self, H: Tensor, encoded: Encoded) -> Tensor:
        B, M, d = H.shape
        rows = torch.arange(B * M, device=H.device, dtype=torch.int32).view(B, M)
        own = torch.stack([rows, encoded.m.int()], dim=-1)  # H_i is a segment of one row
        read = self.attend(
            encoded.tokens, encoded.segments, queries=self.norm(H).view(B * M, d), query_segments=own
        )
        H = H + read.view(B, M, d)
        return H + self.feed_forward(H)


class MaskAdaptiveWeights(nn.Module):
    """W_i(m) x = W_i x + U_i (g_i(m) * (V_i x)): one matrix per modality and a low-rank term that
    adapts it to which modalities are there."""

    def __init__(self, modalities: int, d: int, rank: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.eye(d).repeat(modalities, 1, 1))
        self.U = nn.Parameter(torch.zeros(modalities, rank, d))
        self.V = nn.Parameter(torch.randn(modalities, d, rank) * d**-0.5)
        self.g = nn.Linear(modalities, modalities * rank)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """x [B, M, d], m float [B, M] -> [B, M, d]."""
        g = self.g(m).view(*m.shape, -1)  # [B, M, rank]
        low = g * torch.einsum("bmd,mdr->bmr", x, self.V)
        return torch.einsum("bmd,mde->bme", x, self.W) + torch.einsum("bmr,mrd->bmd", low, self.U)


class Integration(nn.Module):
    """Z(m), layer-normalised without affine so that its scale is fixed (the diffusion needs one
    and a consistency term cannot shrink it). Nothing present: a learned prior."""

    def __init__(self, config: ModelConfig, modalities: int, log_pi: Tensor) -> None:
        super().__init__()
        d = config.d_h
        self.layers = nn.ModuleList(CrossModalLayer(config, modalities) for _ in range(config.fusion_layers))
        self.knowledge = KnowledgeAttention(d, config.heads, log_prior=log_pi)
        self.W = MaskAdaptiveWeights(modalities, d, config.rank)
        self.prior = nn.Parameter(torch.randn(d))
        self.norm = nn.LayerNorm(d, elementwise_affine=False)

    def fuse(self, encoded: Encoded) -> Tensor:
        """H [B, M, d] after the cross-modal layers: what asks the concepts."""
        H = encoded.H.masked_fill(~encoded.m[..., None], 0)  # absent rows are never read
        for layer in self.layers:
            H = layer(H, encoded)
        return H

    def forward(self, encoded: Encoded) -> Tensor:
        """Z(m) = sum_i m_i W_i(m) (H_i + A_med K) / sum_i m_i, [B, d]."""
        H = self.fuse(encoded)
        B, M, d = H.shape
        H = H + self.knowledge(H.reshape(B * M, d), encoded.K).view(B, M, d)  # H_i + A_med K
        m = encoded.m.to(H.dtype)
        Z = (self.W(H, m) * m[..., None]).sum(1) / m.sum(1, keepdim=True).clamp(min=1)
        Z = torch.where(encoded.m.any(1, keepdim=True), Z, self.prior)
        return self.norm(Z)
