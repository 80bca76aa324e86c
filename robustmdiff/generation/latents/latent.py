"""What a latent space is: what is observed in, numbers of about unit size out, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class ImageLatent(nn.Module, ABC):
    """A latent space of one imaging modality: z = encode(x), x ~ decode(z).

    x      float32 [n, C, H, W], the modality's window mapped to [-1, 1] (`encoders.image.normalise`)
    shape  of one z, [c, h, w] of a grid or [k] of a vector; z [n, *shape], about unit size once fitted

    What `fit` measures is kept in buffers, so that a saved latent encodes as it did.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Measure the scales, or whatever needs no gradient, on training images."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor: ...
