"""Three series of one frame, 16 x 16: two show a blob each, the third both, and noise of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.generation.latents.dct import BlockDCT
from robustmdiff.generation.translation import Draft, Translation

SERIES = ("T1w", "T2w", "PDw")
SIZE = 16
NOISE = 0.2


def draw_images(n: int, seed: int = 0) -> dict[str, Tensor]:
    """float32 [n, 1, 16, 16] by series."""
    g = torch.Generator().manual_seed(seed)
    place = torch.arange(SIZE).float()

    def blob() -> Tensor:
        x, y = torch.rand(2, n, 1, generator=g) * SIZE
        width = 2 + 3 * torch.rand(n, 1, generator=g)
        row, column = (torch.exp(-(((place - at) / width) ** 2)) for at in (x, y))
        return (row[:, :, None] * column[:, None, :])[:, None]

    first, second = blob(), blob()
    noise = NOISE * torch.randn(n, 1, SIZE, SIZE, generator=g)
    return {"T1w": first, "T2w": second, "PDw": first - second + noise}


def new_draft(targets: tuple[str, ...] = ("PDw",), images: dict[str, Tensor] | None = None) -> Draft:
    images = images or draw_images(40)
    torch.manual_seed(7)
    latents = {name: BlockDCT((1, SIZE, SIZE)) for name in SERIES}
    for name, latent in latents.items():
        latent.fit(images[name])
    return Draft(latents, targets, widths=(8, 16))


def new_translation(targets: tuple[str, ...] = ("PDw",)) -> Translation:
    """One that says something, with random weights."""
    translation = Translation(new_draft(targets), widths=(8, 16))
    for network in (translation.draft.network, translation.flow.network):
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return translation
