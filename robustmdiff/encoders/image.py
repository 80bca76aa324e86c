"""Images: from the intensities of a window to patches and their tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustmdiff.data.kinds.image import Images
from robustmdiff.data.kinds.kind import Spans
from robustmdiff.data.modality import Modality
from robustmdiff.encoders.backbone import TransformersEncoder, load_backbone, to_width
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.encoder import Embedded, Encoder
from robustmdiff.refusal import Refusal

BLUR = 1 / 8  # of the shorter side: what is left of an image after it shows anatomy but no lesion


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

    @staticmethod
    def silent(encoder: Encoder, images: Images, spans: Spans) -> Tensor:
        return encoder.embed(images._replace(pixels=blurred(images.pixels))).x

    @staticmethod
    def entered(encoder: nn.Module) -> Encoder:
        return AtPixels(encoder)

    def enter(self, inputs: Mapping[str, Tensor]) -> Embedded:
        return self.embed(Images(None, inputs["pixels"]))

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


class AtPixels(Encoder):
    """An image encoder of the user's own that is no `Encoder`: it is entered at the pixels themselves."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def embed(self, images: Images) -> Embedded:
        return Embedded(images.pixels)

    def encode(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(embedded.x), device=embedded.x.device)
        return self.encoder(Images(rows, embedded.x))


def blurred(pixels: Tensor) -> Tensor:
    """[n, C, H, W], by a Gaussian of BLUR times the shorter side; edges repeat."""
    C, *sides = pixels.shape[1:]
    sigma = BLUR * min(sides)
    reach = int(3 * sigma) + 1
    offset = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-((offset / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(C, 1, 1, -1)
    x = nn.functional.pad(pixels, (reach,) * 4, mode="replicate")
    return nn.functional.conv2d(nn.functional.conv2d(x, kernel, groups=C), kernel.mT, groups=C)
