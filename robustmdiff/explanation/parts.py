"""What each kind of modality is made of, for explanations: how it says nothing, and its parts by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Images
from robustmdiff.data.task import Modality
from robustmdiff.encoders.encoder import Embedded, Encoder
from robustmdiff.refusal import Refusal

BLUR = 1 / 8  # of the shorter side: what is left of an image after it shows anatomy but no lesion
IN_WORDS = ("Mn", "Mc", "Me", "Cf")  # marks, and what cannot be seen
WITHOUT_BLANKS = re.compile(  # Thai and Lao, Burmese, Khmer, Chinese and Japanese
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)

Spans = Sequence[tuple[int, int]]  # the characters [start, end) behind each token; start = end: a special one


@dataclass(frozen=True)
class Word:
    """text[start:end] of a report, and what it added to p_c."""

    text: str
    start: int
    end: int
    attribution: float


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


# The beginning of a path: what an encoder would be given, were the modality there and said nothing


def blurred_image(encoder: Encoder, images: Any, spans: Spans) -> Tensor:
    return encoder.embed(images._replace(pixels=blurred(images.pixels))).x


def wordless_text(encoder: Encoder, texts: Any, spans: Spans) -> Tensor:
    """Word vectors of 0; special tokens ([CLS], [SEP]) stay."""
    x = encoder.embed(texts).x  # [1, L, ...]
    special = torch.tensor([start == end for start, end in spans], device=x.device)
    return x * special.view(1, -1, *[1] * (x.ndim - 2))


def unmeasured_panel(encoder: Encoder, panels: Any, spans: Spans) -> Tensor:
    return encoder.embed(
        panels._replace(value=torch.zeros_like(panels.value), present=torch.zeros_like(panels.present))
    ).x


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


# From what `Encoder.parts` gives to pixels, words and cells


def pixels(modality: Modality, image: Any, parts: Tensor, spans: Spans) -> Tensor:
    """[C, H, W]."""
    _check(modality, parts, modality.shape or ())
    return parts


def words(modality: Modality, text: str, parts: Tensor, spans: Spans) -> tuple[Word, ...]:
    """Tokens [L] merged into words: neighbours without a gap whose characters belong together, and
    tokens of one and the same character."""
    _check(modality, parts, (len(spans),))
    found: list[Word] = []
    for (start, end), value in zip(spans, parts.tolist(), strict=True):
        if start == end:  # a special token; the path does not move it
            continue
        while unicodedata.category(text[end : end + 1] or "?") in IN_WORDS:
            end += 1
        last = found[-1] if found else None
        if last and (start < last.end or (start == last.end and _joined(text[start - 1], text[start]))):
            found[-1] = Word(text[last.start : end], last.start, end, last.attribution + value)
        else:
            found.append(Word(text[start:end], start, end, value))
    return tuple(found)


def _joined(left: str, right: str) -> bool:
    """Whether a word goes on between two characters: with a mark (an accent, a vowel sign), or between
    letters and digits of scripts that set blanks between words."""
    if unicodedata.category(right) in IN_WORDS:
        return True
    before = left.isalnum() or unicodedata.category(left) in IN_WORDS
    return before and right.isalnum() and not WITHOUT_BLANKS.search(left + right)


def cells(modality: Modality, measured: Any, parts: Tensor, spans: Spans) -> dict[str, float]:
    """Fields [F] by name, the measured ones."""
    _check(modality, parts, (len(modality.fields),))
    values = zip(modality.fields, parts.tolist(), strict=True)
    return {field.name: value for field, value in values if field.name in measured}


def _check(modality: Modality, parts: Tensor, shape: tuple[int, ...]) -> None:
    if parts.shape != shape:
        raise Refusal(
            f"modality {modality.name!r}: the encoder's parts are {list(parts.shape)}, "
            f"expected {list(shape)}, the shape of an image, the tokens of a text or the fields of a panel"
        )


def _nowhere(encoder: nn.Module) -> None:
    """There is no floating point number of a text or a panel ahead of an encoder's own layers."""


class Parts(NamedTuple):
    """silent     (encoder, observations of one patient, spans) -> where the path begins, as `embed` gives x
    otherwise  (encoder) -> where a class of the user's own that is no `Encoder` is entered, or None
    name       the field of `Attribution` that holds the parts
    told       (modality, the patient's own value, parts, spans) -> what stands there
    """

    silent: Callable[[Encoder, Any, Spans], Tensor]
    otherwise: Callable[[nn.Module], Encoder | None]
    name: str
    told: Callable[[Modality, Any, Tensor, Spans], Any]


PARTS = {
    "image": Parts(blurred_image, AtPixels, "pixels", pixels),
    "text": Parts(wordless_text, _nowhere, "words", words),
    "values": Parts(unmeasured_panel, _nowhere, "cells", cells),
}
