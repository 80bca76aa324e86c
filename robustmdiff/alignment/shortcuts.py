"""What a prompt says besides an encoder's summary: words, and patches in their places.

They reach the summary of an encoder from scratch late, and the mean of its tokens forgets where a patch was,
which is what tells one finding from another. So there is a linear way around both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.data.kinds.text import Texts
from robustmdiff.data.modality import Modality
from robustmdiff.encoders.image import ImageEncoder
from robustmdiff.encoders.text import TextEncoder


class Words(nn.Module):
    """The sum of a text's word vectors, projected."""

    def __init__(self, encoder: TextEncoder, d: int) -> None:
        super().__init__()
        self.project = nn.Linear(encoder.bert.get_input_embeddings().embedding_dim, d, bias=False)

    def forward(self, encoder: TextEncoder, texts: Texts[Tensor], tokens: Tensor) -> Tensor:
        """[n, d], over the root of how many words there are. Word vectors begin small (sd .02): times the
        root of their width, as Vaswani et al. (2017) have them."""
        x, lengths = encoder.embed(texts)
        assert lengths is not None
        written = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        total = (x * written[..., None]).sum(1)
        return self.project(total * (x.shape[-1] / lengths[:, None]) ** 0.5)


class Patches(nn.Module):
    """The tokens of an image, each projected as its place asks."""

    def __init__(self, encoder: ImageEncoder, d: int) -> None:
        super().__init__()
        config = encoder.vit.config
        height, width = config.image_size
        patches = (height // config.patch_size) * (width // config.patch_size)
        self.project = nn.Linear((1 + patches) * config.hidden_size, d, bias=False)

    def forward(self, encoder: ImageEncoder, images: object, tokens: Tensor) -> Tensor:
        """tokens [n (1 + patches), d_h] -> [n, d]"""
        return self.project(tokens.view(-1, self.project.in_features))


def shortcut(modality: Modality, encoder: nn.Module, d: int) -> Words | Patches | None:
    """That of an encoder from scratch, of which we know how it reads."""
    if modality.encoder is not None:
        return None
    if isinstance(encoder, TextEncoder):
        return Words(encoder, d)
    return Patches(encoder, d) if isinstance(encoder, ImageEncoder) else None
