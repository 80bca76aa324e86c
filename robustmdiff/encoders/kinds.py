"""The encoder of each kind of modality. A new kind is a file beside these and a line here."""

from __future__ import annotations

from robustmdiff.encoders.encoder import KindEncoder
from robustmdiff.encoders.image import ImageEncoder
from robustmdiff.encoders.text import TextEncoder
from robustmdiff.encoders.values import PanelEncoder

ENCODERS: dict[str, type[KindEncoder]] = {
    "image": ImageEncoder,
    "text": TextEncoder,
    "values": PanelEncoder,
}
