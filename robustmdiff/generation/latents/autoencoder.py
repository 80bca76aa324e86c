"""A patchified KL autoencoder: the published form of a learned latent, at a price that a CPU can pay."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from robustmdiff.generation.latents.dct import BlockDCT
from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.refusal import Refusal
from robustmdiff.training.budget import budget
from robustmdiff.training.config import LoopConfig
from robustmdiff.training.contract import Objective
from robustmdiff.training.loop import Loop, TrainResult, claim, make_accelerator
from robustmdiff.training.rows import RowPlan

BLOCKS = 2  # residual ones, in encoder and decoder each
GROUPS = 8
LOG_VARIANCE = -20.0, 10.0  # of a posterior; bounds as Rombach et al. 2022 have them


class AutoencoderConfig(LoopConfig):
    """How an autoencoder is trained: by default some minutes of one core for 3,000 images of 64 x 64."""

    learning_rate: float = Field(1.5e-3, gt=0, description="highest, after the warm-up; falls as a cosine")
    batch_size: int | None = Field(32, ge=1, description="images per step, over all processes")
    epochs: int | None = Field(10, ge=1, description="null: 20, more where these are few steps")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="of the averaged weights that are evaluated")
    lambda_mse: float = Field(10.0, gt=0, description="of the mean squared error")
    lambda_kl: float = Field(1e-4, ge=0, description="of the KL divergence from N(0, 1), a mean over numbers")


class PatchAutoencoder(ImageLatent):
    """Images become blocks of DCT coefficients first, so that every convolution runs on the latent's grid:
    [C, H, W] <-> [channels, H / block, W / block].

    `encode` gives the mean of the posterior q(z | x) (Kingma & Welling 2014; as a latent space Rombach et al.
    2022), divided by a `scale` that `fit` measures. Weights are learned by `train_autoencoder`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, image: tuple[int, int, int], channels: int = 4, width: int = 48, block: int = 4
    ) -> None:
        super().__init__(image)
        if channels < 1:
            raise Refusal(f"channels is {channels}, expected at least 1")
        if width < GROUPS or width % GROUPS:
            raise Refusal(f"width is {width}, expected a multiple of {GROUPS}")
        self.blocks = BlockDCT(image, block)
        patch, *grid = self.blocks.shape
        self.shape = channels, *grid
        self.options = {"image": list(image), "channels": channels, "width": width, "block": block}
        self.encoder, self.decoder = network(patch, width, 2 * channels), network(channels, width, patch)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        self.check_images(x, least=1)
        self.blocks.fit(x)
        means = torch.cat([self.posterior(part)[0] for part in x.split(64)])
        sd, mean = torch.std_mean(means, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(sd if sd > 0 else torch.ones(()))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), before `scale`."""
        mean, log_variance = self.encoder(self.blocks.encode(x)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def reconstruct(self, z: Tensor) -> Tensor:
        """The inverse of `posterior`."""
        return self.blocks.decode(self.decoder(z))

    def encode(self, x: Tensor) -> Tensor:
        return (self.posterior(x)[0] - self.mean) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        return self.reconstruct(z * self.scale + self.mean)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
            *(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def network(channels: int, width: int, out: int) -> nn.Sequential:
    """[n, channels, h, w] -> [n, out, h, w]."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        *(Residual(width) for _ in range(BLOCKS)),
        *(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1)),
    )


class Evidence(Objective):
    """The evidence lower bound of x [n, C, H, W], with weights: lambda_mse MSE + lambda_kl KL."""

    model: PatchAutoencoder

    def __init__(self, model: PatchAutoencoder, config: AutoencoderConfig) -> None:
        super().__init__(model)
        self.config = config

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_variance = self.model.posterior(x)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        mse = (self.model.reconstruct(z) - x).square().mean()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return self.config.lambda_mse * mse + self.config.lambda_kl * kl, {"mse": mse, "kl": kl}


def train_autoencoder(
    latent: PatchAutoencoder,
    x: Tensor,
    config: AutoencoderConfig,
    out_dir: Path | str,
    *,
    resume: bool = False,
    device: torch.device | None = None,
) -> TrainResult:
    """Learn from images x, then measure `scale`; the latent is trained where it stands, as a run of
    `training.loop` in `out_dir`, resumable there. device is that of `make_accelerator`."""
    out_dir = Path(out_dir)
    claim(out_dir, resume)
    latent.check_images(x, least=1)
    accelerator = make_accelerator(config, out_dir, device)
    length = budget(len(x), config, "images")
    latent.blocks.fit(x)
    result = Loop(
        Evidence(latent, config),
        RowPlan([x], length, config.seed, processes=accelerator.num_processes, accumulate=config.accumulate),
        config,
        out_dir,
        accelerator,
        name="autoencoder",
        data={"images": list(x.shape), "latent": latent.options},
        notes=length.notes,
    ).run()
    latent.fit(x.to(accelerator.device))
    return result
