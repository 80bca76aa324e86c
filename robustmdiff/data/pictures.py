"""Image files to tensors: greyscale, square, float32 in [0, 1]."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.files import write_whole
from robustmdiff.data.patient import DataError


def read_picture(path: Path, size: int, where: str, cache: Path | None = None) -> Tensor:
    """The image as float32 [1, size, size] in [0, 1], padded with black to a square first, so
    that nothing is cut off and nothing stretched.

    8-bit values count 255 as 1; deeper ones (16-bit PNG) count as 1 the end of the bits they
    use, 4095 for 12-bit data in a 16-bit file. Transparent parts are black.

    where  what to call it in messages ("metadata.csv:118, column 'filename'").
    cache  a folder for decoded images, refreshed when the file changes; never under the data.

    Raises DataError for a file that cannot be decoded.
    """
    if cache is None:
        return _decode(path, size, where)
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{size}".encode()).hexdigest()
    kept = cache / f"{key[:32]}.npy"
    if kept.is_file():
        try:
            pixels = np.load(kept, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # damaged: decode again
            pixels = np.empty(0)
        if pixels.shape == (1, size, size) and pixels.dtype == np.float32:
            return torch.from_numpy(pixels)
    image = _decode(path, size, where)
    buffer = io.BytesIO()
    np.save(buffer, image.numpy())
    write_whole(kept, buffer.getvalue())
    return image


def _decode(path: Path, size: int, where: str) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: {path.name} is not an image that can be read ({error})") from error

    if image.mode.startswith("I"):  # I;16, I;16B, I: deeper than 8 bits
        deep = np.asarray(image).astype(np.float64)
        if deep.min() < 0:
            raise DataError(f"{where}: {path.name} holds {deep.min():g}, expected intensities from 0")
        bits = max(8, int(deep.max()).bit_length())
        grey = Image.fromarray((deep / (2**bits - 1)).astype(np.float32))
    elif image.mode == "F":
        raise DataError(f"{where}: {path.name} holds floats, expected 8 or 16 bits per pixel (or .npy)")
    else:
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        grey = Image.fromarray(np.asarray(image.convert("L"), dtype=np.float32) / 255)

    side = max(grey.size)
    square = Image.new("F", (side, side), 0.0)
    square.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
    small = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(small.clip(0, 1))[None]
