"""The denoiser that is trained jointly with the encoders: the paper's latent diffusion of x = (Z, lambda)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.diffusion.denoiser import Condition, LatentDenoiser
from robustmdiff.diffusion.loss import diffusion_loss
from robustmdiff.diffusion.sample import pure_noise, sample_ddpm
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded

NOISINGS = 4  # noise levels per patient and training step: the denoiser is cheap, the encoders are not


class JointDenoiser(LatentDenoiser):
    """What x, [B, latent], would be under a fuller view m', given x(m) and the tokens of what is visible."""

    def __init__(self, latent: int, modalities: int, config: ModelConfig) -> None:
        super().__init__(latent, config.d_h, modalities, config.width, config.depth, config.heads)
        self.schedule = Schedule(config.T, config.beta_schedule, config.steps)

    def loss(
        self, x_0: Tensor, x_m: Tensor, view: Tensor, student: Encoded, noise: PatientNoise
    ) -> tuple[Tensor, Tensor]:
        """L_diff at NOISINGS noise levels per patient, and the one-step estimates of x_0 [B, R, latent].

        x_0 and x_m [B, latent]: under the view, bool [B, M], and as the student sees the patients. L_diff
        teaches the denoiser alone: what it would have of the encoders is to be predictable.
        """
        (B, D), R, T = x_0.shape, NOISINGS, self.schedule.T
        t = (noise.uniform(R, stream=2) * T).long().clamp(max=T - 1)
        loss, x_hat = diffusion_loss(
            self,
            self.schedule,
            x_0.repeat_interleave(R, 0),
            t.view(-1),
            self._told(x_m.detach(), view, student._replace(tokens=student.tokens.detach())),
            key=noise.key(stream=3),
            row_ids=noise.rows(R),
        )
        return loss.mean(), x_hat.view(B, R, D)

    def draw(self, x_m: Tensor, view: Tensor, encoded: Encoded, draws: int, key: Tensor) -> Tensor:
        """Draws of x under the view, bool [B, M] -> [B, S, latent]. Draw s uses the same noise for every
        patient."""
        B, D = x_m.shape
        condition = self._told(x_m, view, encoded)
        row_ids = torch.arange(draws, device=x_m.device).repeat(B)
        x = sample_ddpm(
            self,
            self.schedule,
            pure_noise(x_m.new_empty(B * draws, D), key, row_ids),
            condition,
            key=key,
            row_ids=row_ids,
            spread=condition.spread.repeat_interleave(draws, 0),
        )
        return x.view(B, draws, D)

    def _told(self, x_m: Tensor, view: Tensor, encoded: Encoded) -> Condition:
        return self.condition_on(x_m, encoded.m, view, encoded.tokens, encoded.segments)
