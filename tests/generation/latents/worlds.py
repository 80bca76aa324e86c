"""Images for the tests of latents: a few patterns with random strength, and noise."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_images(n: int, image: tuple[int, int, int] = (1, 16, 16), seed: int = 0, rank: int = 5) -> Tensor:
    """float32 [n, *image] in about [-1, 1]: `rank` smooth patterns, the same for every seed, and noise of
    sd .02."""
    C, H, W = image
    fixed = torch.Generator().manual_seed(1)
    coarse = torch.randn(rank, C, 3, 3, generator=fixed)
    patterns = torch.nn.functional.interpolate(coarse, (H, W), mode="bicubic", align_corners=True)
    g = torch.Generator().manual_seed(2 + seed)
    x = torch.einsum("nr,rchw->nchw", torch.randn(n, rank, generator=g) * 0.2, patterns)
    return x - 0.5 + 0.02 * torch.randn(x.shape, generator=g)


@torch.no_grad()
def psnr(x: Tensor, y: Tensor) -> float:
    """Of range 2, the mean over images."""
    return float((10 * torch.log10(4 / (x - y).square().flatten(1).mean(dim=1))).mean())
