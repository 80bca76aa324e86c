"""What every reader of an image gives, and what is done to it whatever file it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

MOST_PIXELS = 2**26  # 8192 x 8192, of all frames together; looked up in the header, before decoding


class Unreadable(ValueError):
    """What is wrong with a file, as the rest of a sentence that begins with its name."""


@dataclass(frozen=True)
class Raster:
    """A decoded image, not yet of the modality's size.

    pixels     float32 [channels, height, width]
    is_share   pixels are shares of what the file can hold, from 0 to 1; otherwise they are in a
               unit of their own (HU, mV), and the modality's window says what of it counts.
    tall       the height of a pixel over its width
    warning    what the user has to know of it, as the rest of a sentence; empty: nothing
    """

    pixels: np.ndarray
    is_share: bool
    tall: float = 1.0
    warning: str = ""


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """A decoder of foreign bytes may raise anything; here it becomes one sentence."""
    try:
        yield
    except Unreadable:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        raise Unreadable(
            f"needs the package {package!r} to be read: pip install 'robustmdiff[clinical]'"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise Unreadable(f"is not {what} that can be read ({reason})") from error


def check_size(width: int, height: int, frames: int = 1) -> None:
    """Before anything is allocated."""
    if width < 1 or height < 1 or frames < 1:
        raise Unreadable(f"is {width} x {height} pixels in {frames} frames, expected at least one of each")
    if width * height * frames > MOST_PIXELS:
        many = f" in {frames} frames" if frames > 1 else ""
        raise Unreadable(f"is {width} x {height} pixels{many}, expected at most {MOST_PIXELS:,} in all")


def central_slices(count: int, channels: int) -> list[int]:
    """The middle slices of as many equal parts of a stack of `count` as there are channels: the same places
    in the body however thick the slices are."""
    if count < channels:
        raise Unreadable(f"holds {count} slices, expected at least {channels} for the modality's channels")
    return [(2 * channel + 1) * count // (2 * channels) for channel in range(channels)]


def to_channels(counts: np.ndarray, full: int, channels: int) -> np.ndarray:
    """Frames of counts, 0 to `full`, as the channels that a modality declares: float32
    [channels, height, width] in [0, 1].

    counts [frames, height, width, samples], unsigned, samples 1 (grey) or 3 (red, green, blue). One
    colour frame is three channels; several frames are a channel each; colour is grey where a channel
    is asked for: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded to a count.
    """
    frames, samples = counts.shape[0], counts.shape[-1]
    if frames == 1 and channels == samples == 3:
        planes = np.moveaxis(counts[0], -1, 0)
    elif frames == channels:
        planes = counts[..., 0] if samples == 1 else _grey(counts)
    else:
        raise wrong_channels(frames, samples, channels)
    wide = np.float32 if counts.dtype.itemsize <= 2 else np.float64
    return np.divide(planes, full, dtype=wide).astype(np.float32)


def wrong_channels(frames: int, samples: int, channels: int) -> Unreadable:
    colour = "colour" if samples == 3 else "grey"
    held = f"{frames} {colour} frames" if frames > 1 else f"one {colour} frame"
    return Unreadable(
        f"holds {held}, but the modality's shape declares {channels} channel{'s'[: channels - 1]}"
    )


def _grey(counts: np.ndarray) -> np.ndarray:
    wide = np.uint32 if counts.dtype.itemsize <= 2 else np.uint64
    grey = np.full(counts.shape[:-1], 2**15, wide)
    for colour, weight in enumerate((19595, 38470, 7471)):  # in 65536ths, as Pillow's
        grey += np.multiply(counts[..., colour], weight, dtype=wide)
    grey >>= 16
    return grey


def on_black(colour: np.ndarray, alpha: np.ndarray, opaque: int) -> np.ndarray:
    """Counts [..., samples] seen through alpha [...] (0 to `opaque`) before black."""
    wide = np.uint32 if colour.dtype.itemsize <= 2 else np.uint64
    through = np.multiply(colour, alpha[..., None], dtype=wide)
    through += opaque // 2
    through //= opaque
    return through.astype(colour.dtype)


def full_scale(counts: np.ndarray, depth: int, bits: int | None) -> int:
    """The count that is 1: the end of the file's own bits per sample, or of the fewer that the
    modality says its files use; a count beyond those contradicts it."""
    used = min(depth, bits or depth)
    if used < depth and (most := int(counts.max())) >= 2**used:
        raise Unreadable(f'holds {most}, expected at most {2**used - 1} as "bits": {bits} declares')
    return 2**used - 1


def upright(counts: np.ndarray, orientation: int) -> np.ndarray:
    """[frames, height, width, samples] turned as the Exif or TIFF tag 274 says."""
    if orientation in (5, 6, 7, 8):
        counts = counts.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        counts = counts[:, ::-1]
    if orientation in (2, 3, 6, 7):
        counts = counts[:, :, ::-1]
    return counts


def fit(pixels: np.ndarray, height: int, width: int, tall: float = 1.0, fill: float = 0.0) -> np.ndarray:
    """pixels [channels, h, w] on [channels, height, width], float32: centred on a field of `fill` of
    the new proportions, so that nothing is cut off and nothing stretched, then resampled linearly,
    averaging over what a new pixel covers (the field itself is never made).

    tall  the height of a pixel over its width; new pixels are square.
    """
    h, w = pixels.shape[1:]
    field_w = max(w, h * tall * width / height)  # in old pixels, which are `tall` times as high as wide
    field_h = max(h, w / tall * height / width)
    if (field_h, field_w) == (height, width) == (h, w):
        return np.asarray(pixels, np.float32)
    fitted = np.empty((len(pixels), height, width), np.float32)
    picture = _resample(np.ones((h, 1)), height, field_h) * _resample(np.ones((w, 1)), width, field_w).T
    for old, new in zip(pixels, fitted, strict=True):
        if h >= w:  # the long side first: what is kept between stays small
            resampled = _resample(_resample(old, height, field_h).T, width, field_w).T
        else:
            resampled = _resample(_resample(old.T, width, field_w).T, height, field_h)
        new[:] = resampled + fill * (1 - picture)  # the share of the picture in each new pixel
    return fitted


def _resample(lines: np.ndarray, size: int, field: float) -> np.ndarray:
    """lines [n, m], in the middle of a field of zeros, to [size, m], float64: new line i is the mean of
    the old ones under a triangle around its middle, at least as wide as a new line is high."""
    n = len(lines)
    before = int((field - n) // 2)
    step = field / size
    reach = max(step, 1.0)
    resampled = np.zeros((size, lines.shape[1]))
    for i in range(size):
        middle = (i + 0.5) * step - before
        first = max(int(np.floor(middle - reach)), -before)
        last = min(int(np.ceil(middle + reach)), int(np.ceil(field)) - before)
        at = np.arange(first, last)
        weights = (1 - np.abs(at + 0.5 - middle) / reach).clip(0)
        seen = slice(max(0, -first), max(0, n - first))  # of those, the lines of the picture
        if first < n and last > 0:
            resampled[i] = (weights / weights.sum())[seen] @ lines[max(0, first) : min(n, last)]
    return resampled
