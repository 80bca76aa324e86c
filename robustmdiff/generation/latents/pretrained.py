"""Any pretrained `AutoencoderKL` of diffusers as a latent space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.refusal import Refusal

BATCH = 16  # images that go through at a time while fitting


class PretrainedAutoencoder(ImageLatent):
    """The posterior's mean of an `AutoencoderKL`, less its mean and divided by its sd on training images: the
    `scaling_factor` of its config is that of other images. `read` takes one from a folder.

    Each channel [1, H, W] of an image goes through alone, repeated for an autoencoder of colours, whose
    channels are averaged on the way back; unless image and autoencoder have equally many channels. Its
    weights are not trained.

    config  of the autoencoder, as its config.json has it
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, image: tuple[int, int, int], config: Mapping[str, Any]) -> None:
        super().__init__(image)
        self.vae = diffusers_class().from_config(dict(config)).requires_grad_(False).eval()
        self.options = {"image": list(image), "config": dict(config)}
        C, H, W = image
        self.whole = self.vae.config.in_channels == C
        self.groups = 1 if self.whole else C
        with torch.no_grad():
            sides = self._means(torch.zeros(1, *image)).shape[1:]
            back = self._images(torch.zeros(1, *sides)).shape[2:]
        if back != (H, W):
            raise Refusal(
                f"the autoencoder's images of {H} x {W} come back as {back[0]} x {back[1]}, expected equal"
            )
        self.shape = tuple(sides)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def read(cls, image: tuple[int, int, int], folder: Path | str) -> PretrainedAutoencoder:
        """With the weights of `folder`, as diffusers' `save_pretrained` wrote it. Refusal where diffusers
        is not installed, and where the folder holds no AutoencoderKL."""
        folder, kind = Path(folder), diffusers_class()
        if not (folder / "config.json").is_file():
            raise Refusal(f"{folder}: has no config.json, expected the folder of a diffusers AutoencoderKL")
        try:
            vae = kind.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever the library finds wrong with it
            reason = " ".join(str(error).split())
            raise Refusal(f"{folder}: is no AutoencoderKL of diffusers ({reason}), expected one") from error
        latent = cls(image, {key: value for key, value in vae.config.items() if not key.startswith("_")})
        latent.vae.load_state_dict(vae.state_dict())
        return latent

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        self.check_images(x, least=1)
        sd, mean = torch.std_mean(torch.cat([self._means(part) for part in x.split(BATCH)]), correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(sd if sd > 0 else torch.ones(()))

    def encode(self, x: Tensor) -> Tensor:
        self.check_images(x)
        return (self._means(x) - self.mean) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        return self._images(z * self.scale + self.mean)

    def _means(self, x: Tensor) -> Tensor:
        if not self.whole:
            x = x.flatten(0, 1)[:, None].expand(-1, self.vae.config.in_channels, -1, -1)
        return self.vae.encode(x).latent_dist.mode().unflatten(0, (-1, self.groups)).flatten(1, 2)

    def _images(self, z: Tensor) -> Tensor:
        x = self.vae.decode(z.unflatten(1, (self.groups, -1)).flatten(0, 1)).sample
        if not self.whole:
            return x.mean(dim=1).unflatten(0, (-1, self.groups))
        return x


def diffusers_class() -> Any:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise Refusal("a pretrained autoencoder needs diffusers: install robustmdiff[diffusers]") from error
    return AutoencoderKL
