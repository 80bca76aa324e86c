"""PNG, JPEG, GIF, WebP and BMP: unsigned counts, whose full scale is 1."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.raster import (
    Raster,
    Unreadable,
    check_size,
    decoding,
    full_scale,
    on_black,
    to_channels,
    upright,
)

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")  # JPEG stands for MPO, too
ORIENTATION = 0x0112  # the Exif tag
PNG = b"\x89PNG\r\n\x1a\n"
SMALL_CHUNKS = (b"IHDR", b"sBIT", b"tRNS", b"acTL", b"eXIf")


def read_bitmap(path: Path, modality: Modality) -> Raster:
    """Samples of up to 8 bits count 255 as 1 (those of 1, 2 and 4 bits their own end), of 16 bits 65535,
    or the end of the bits that the modality declares, or else of those that a PNG's sBIT names.

    Seen before black where transparent; turned as Exif says; colour profiles and gamma are not applied.
    """
    assert modality.shape is not None
    with decoding("an image"):
        png = _png_header(path)
        # Pillow keeps 8 of 16 bits where there is more than a channel, and misplaces tRNS below 8 bits.
        if png is not None and (png.depth == 16 or (png.depth < 8 and png.colour == 0 and png.transparent)):
            counts, full = _deep_png(path, png, modality.bits)
        else:
            counts, full = _eight_bits(path), 255
        return Raster(to_channels(counts, full, modality.shape[0]), is_share=True)


def _eight_bits(path: Path) -> np.ndarray:
    """uint8 [frames, height, width, samples]."""
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        frames = _frames(image)
        check_size(*image.size, frames)
        counts = []
        for frame in range(frames):
            image.seek(frame)
            counts.append(_samples(image, colour=frames > 1))
        return upright(np.stack(counts), image.getexif().get(ORIENTATION, 1))


def _frames(image: Image.Image) -> int:
    frames: int = getattr(image, "n_frames", 1)
    if image.format == "MPO":  # a camera's JPEG: what follows may be a preview or a gain map of the first
        entries = image.mpinfo[0xB002]  # type: ignore[attr-defined]
        if not any(entry["Attribute"]["MPType"].startswith("Multi-Frame") for entry in entries[1:]):
            return 1
    return frames


def _samples(image: Image.Image, colour: bool) -> np.ndarray:
    """uint8 [height, width, 1 or 3], of greyscale 3 only if `colour`."""
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise Unreadable(f"is in {image.mode} colours, expected greyscale, RGB or a palette")
    grey = image.mode in ("1", "L", "LA") and not colour
    if image.mode.endswith("A") or "transparency" in image.info:
        seen = np.asarray(image.convert("LA" if grey else "RGBA"))
        return on_black(seen[..., :-1], seen[..., -1], 255)
    samples = np.asarray(image.convert("L" if grey else "RGB"))
    return samples[..., None] if grey else samples


class _Png(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int  # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    chunks: dict[bytes, bytes]

    @property
    def transparent(self) -> bool:
        return b"tRNS" in self.chunks


def _png_header(path: Path) -> _Png | None:
    """What a PNG says of itself; None where it is none."""
    chunks: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        if file.read(8) != PNG:
            return None
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name in SMALL_CHUNKS and name not in chunks and length < 2**20:
                chunks[name] = file.read(length)
                length = 0
            file.seek(length + 4, 1)
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    return _Png(width, height, depth, colour, chunks)


def _deep_png(path: Path, png: _Png, bits: int | None) -> tuple[np.ndarray, int]:
    """[1, height, width, samples], and the count that is 1."""
    import imagecodecs

    check_size(png.width, png.height)
    if b"acTL" in png.chunks and int.from_bytes(png.chunks[b"acTL"][:4], "big") > 1:
        raise Unreadable(f"is an animated PNG of {png.depth} bits, expected one frame")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        decoded = imagecodecs.png_decode(content)
    if decoded.ndim == 2:
        decoded = decoded[..., None]
    opaque = int(np.iinfo(decoded.dtype).max)
    transparent = decoded.shape[-1] in (2, 4)
    colour = decoded[..., :-1] if transparent else decoded
    if png.depth == 16 and bits is None and b"sBIT" in png.chunks:
        colour, full = _significant(colour, png.chunks[b"sBIT"])
    else:
        full = full_scale(colour, opaque.bit_length(), bits)
    if transparent:
        colour = on_black(colour, decoded[..., -1], opaque)
    return upright(colour[None], _orientation(png)), full


def _significant(counts: np.ndarray, sbit: bytes) -> tuple[np.ndarray, int]:
    """PNG scales samples of fewer bits to 16, and sBIT says of how many (PNG 3rd edition, 11.3.2.7 and
    12.4): they are the upper ones. A picture whose lower bits are not of that scaling contradicts its
    sBIT: its counts may be unscaled, which only the task can say."""
    named = set(sbit[: counts.shape[-1]])
    if len(named) != 1 or not 1 <= (bits := named.pop()) <= 16:
        raise Unreadable(f"has sBIT {list(sbit)}, expected one number from 1 to 16 for all colours")
    upper = counts >> (16 - bits)
    scaled = np.rint(upper * (65535 / (2**bits - 1)))
    strange = (np.abs(counts - scaled) > 1) & (counts != upper << (16 - bits))
    if strange.any():
        raise Unreadable(
            f"holds {counts[strange][0]}, which is no sample of {bits} bits scaled to 16 as its sBIT says; "
            f'if the counts are not scaled, declare "bits": {bits}'
        )
    return upper, 2**bits - 1


def _orientation(png: _Png) -> int:
    from PIL import Image

    exif = Image.Exif()
    exif.load(png.chunks.get(b"eXIf", b""))
    orientation: int = exif.get(ORIENTATION, 1)
    return orientation
