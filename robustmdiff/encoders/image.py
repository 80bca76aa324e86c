"""Images: from the intensities of a window to patches and their tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.data.batch import Images
from robustmdiff.data.task import Modality
from robustmdiff.encoders.backbone import TransformersEncoder, load_backbone, to_width
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.encoder import Embedded
from robustmdiff.refusal import Refusal


def normalise(pixels: Tensor, window: tuple[float, float]) -> Tensor:
    """The window (low, high) to (-1, 1); what lies outside stays outside."""
    low, high = window
    return pixels.mul(2 / (high - low)).sub_((high + low) / (high - low))


def denormalise(x: Tensor, window: tuple[float, float]) -> Tensor:
    """The inverse of `normalise`: -1 and 1 to the window's ends, in the image's own unit."""
    low, high = window
    return low + (x + 1) * (high - low) / 2


class ImageEncoder(TransformersEncoder):
    """A vision transformer (Dosovitskiy et al. 2021) on our attention, small and from scratch unless
    the modality names a pretrained `AutoModel`; [CLS] is the summary."""

    def __init__(self, modality: Modality, config: EncoderConfig) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTModel

        assert modality.shape is not None
        channels, height, width = modality.shape
        self.window = modality.low_high
        if modality.encoder is not None:
            self.vit = load_backbone(modality)
        else:
            if height % config.patch or width % config.patch:
                raise Refusal(
                    f"modality {modality.name!r}: image is {height} x {width}, expected sides that are "
                    f"multiples of patch = {config.patch}"
                )
            self.vit = ViTModel(
                ViTConfig(
                    hidden_size=config.d_h,
                    num_hidden_layers=config.layers,
                    num_attention_heads=config.heads,
                    intermediate_size=2 * config.d_h,
                    image_size=(height, width),
                    patch_size=config.patch,
                    num_channels=channels,
                    hidden_dropout_prob=config.dropout,
                    attn_implementation="robustmdiff",  # type: ignore[call-arg]
                ),
                add_pooling_layer=False,
            )
        self.project = to_width(self.vit.config.hidden_size, config.d_h)

    @staticmethod
    def blank(modality: Modality) -> Images:
        """Two images of nothing, to try an encoder on."""
        assert modality.shape is not None
        return Images(torch.arange(2), torch.full((2, *modality.shape), modality.low_high[0]))

    def embed(self, images: Images) -> Embedded:
        """x: pixels [n, C, H, W], normalised and not yet clipped."""
        return Embedded(normalise(images.pixels, self.window))

    def encode(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        tokens, lengths = self.padded(embedded)
        return tokens.flatten(0, 1), lengths

    def padded(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        x = embedded.x
        if x.shape[1] == 1:
            x = x.expand(-1, self.vit.config.num_channels, -1, -1)
        tokens = self.project(self.vit(pixel_values=x.clamp(-1, 1)).last_hidden_state)  # [n, 1 + patches, d]
        return tokens, torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)
