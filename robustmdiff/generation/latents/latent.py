"""What a latent space is: what is observed in, numbers of about unit size out, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from robustmdiff.refusal import Refusal


class Latent(nn.Module):
    """shape    of one z: [c, h, w] of a grid or [k] of a vector
    options  what the constructor needs to make it again, by name, in JSON's types

    What is measured or learned is kept in parameters and buffers, so that a saved latent encodes as it did
    (`saved.save_latent`).
    """

    shape: tuple[int, ...]
    options: dict[str, Any]

    def check_latents(self, z: Tensor) -> None:
        if z.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"{type(self).__name__}: z is {list(z.shape)}, expected [n, {expected}]")


class ImageLatent(Latent, ABC):
    """A latent space of one imaging modality: z = encode(x), x ~ decode(z).

    x      float32 [n, C, H, W], the modality's window mapped to [-1, 1] (`encoders.image.normalise`)
    z      [n, *shape], about unit size once fitted
    image  [C, H, W]

    Raises Refusal for images of another size, or with a value that is no finite number; `fit` for none.
    """

    def __init__(self, image: tuple[int, int, int]) -> None:
        super().__init__()
        if len(image) != 3 or min(image) < 1:
            raise Refusal(f"image is {list(image)}, expected [channels, height, width] of at least 1 each")
        self.image = tuple(image)

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Measure the scales, or whatever needs no gradient, on training images."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor: ...

    def check_images(self, x: Tensor, least: int = 0) -> None:
        name = type(self).__name__
        if x.shape[1:] != self.image:
            raise Refusal(
                f"{name}: images are {list(x.shape)}, expected [n, {', '.join(map(str, self.image))}]"
            )
        if len(x) < least:
            raise Refusal(f"{name}: there are {len(x)} images to fit, expected at least {least}")
        if not torch.isfinite(x).all():
            row = int((~torch.isfinite(x)).flatten(1).any(dim=1).nonzero()[0])
            raise Refusal(f"{name}: image {row} has a value that is NaN or infinite, expected finite numbers")
