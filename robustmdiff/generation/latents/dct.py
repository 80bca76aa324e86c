"""Block DCT: a fixed, lossless latent grid, in which smooth and sharp parts of an image lie apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.refusal import Refusal

STILL = 1e-3  # sd of a coefficient that does not vary: less than the rounding of pixels to 8 bits


def dct_matrix(b: int) -> Tensor:
    """The orthonormal DCT-II, float64 [b, b]: row k is the wave of frequency k (Ahmed et al. 1974)."""
    k, j = torch.arange(b, dtype=torch.float64)[:, None], torch.arange(b, dtype=torch.float64)
    D = math.sqrt(2 / b) * torch.cos(math.pi * k * (2 * j + 1) / (2 * b))
    D[0] /= math.sqrt(2)
    return D


class BlockDCT(ImageLatent):
    """Each b x b block becomes its b^2 DCT coefficients: [C, H, W] <-> [C b b, H / b, W / b].

    A coefficient loses its mean and is divided by the root of its sd, and all by one number that gives z
    a mean variance of 1. Divided by the sd itself, noise in the high bands would count as much as anatomy.
    Before `fit`, z is the orthonormal transform. `decode` is the exact inverse, to rounding.
    """

    waves: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, image: tuple[int, int, int], block: int = 4) -> None:
        super().__init__(image)
        C, H, W = image
        if block < 1 or H % block or W % block:
            raise Refusal(f"block is {block}, expected a number that divides both sides of {H} x {W}")
        self.block, self.options = block, {"image": list(image), "block": block}
        self.shape = C * block * block, H // block, W // block
        D = dct_matrix(block)
        waves = torch.einsum("ui,vj->uvij", D, D).reshape(block * block, 1, block, block)
        self.register_buffer("waves", waves.float().repeat(C, 1, 1, 1), persistent=False)  # [C b b, 1, b, b]
        self.register_buffer("mean", torch.zeros(self.shape[0], 1, 1))
        self.register_buffer("scale", torch.ones(self.shape[0], 1, 1))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        self.check_images(x, least=1)
        coefficients = self._transform(x)
        sd, mean = torch.std_mean(coefficients, dim=(0, 2, 3), correction=0, keepdim=True)
        varies = sd > STILL
        unit = sd[varies].mean().sqrt() if varies.any() else 1.0
        self.mean.copy_(mean[0])
        self.scale.copy_(torch.where(varies, sd.sqrt() * unit, 1.0)[0])

    def encode(self, x: Tensor) -> Tensor:
        self.check_images(x)
        return (self._transform(x) - self.mean) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        coefficients = z * self.scale + self.mean
        return nn.functional.conv_transpose2d(
            coefficients, self.waves, stride=self.block, groups=self.image[0]
        )

    def _transform(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.waves, stride=self.block, groups=self.image[0])
