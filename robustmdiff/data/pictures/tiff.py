"""TIFF of any depth: unsigned counts, whose full scale is 1, or signed and floating numbers in a unit of
their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.codestreams import check_codestream
from robustmdiff.data.pictures.raster import (
    Raster,
    Unreadable,
    check_size,
    decoding,
    full_scale,
    on_black,
    to_channels,
    upright,
    wrong_channels,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how a file begins, small and big
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
JPEG = 7
PREMULTIPLIED, ALPHA = 1, 2  # of ExtraSamples
TRUNCATED = "keeps frames outside its pages, expected a page for every frame"


def read_tiff(path: Path, modality: Modality) -> Raster:
    """Every page a frame; reduced copies and masks are left out. Unsigned samples count the end of their
    BitsPerSample as 1, or of the fewer bits that the modality declares. Signed and floating samples are
    greyscale in their own unit.

    SMaxSampleValue is no scale, as many programs write each picture's own maximum there: one that is
    not the end of the type is refused unless the modality declares its bits.
    """
    assert modality.shape is not None
    with decoding("an image"):
        from tifffile import TiffFile

        with TiffFile(path, is_ome=False) as file:
            pages = _pages(file)
            page = pages[0]
            if page.dtype is None or page.dtype.kind not in "buif":
                raise Unreadable(f"holds {page.dtype} samples, expected whole or floating numbers")
            if page.dtype.kind in "if":
                return Raster(_own_unit(pages, modality.shape[0]), is_share=False)
            frames, fulls = zip(*(_counts(page, modality.bits) for page in pages), strict=True)
            return Raster(to_channels(np.stack(frames), fulls[0], modality.shape[0]), is_share=True)


def _pages(file: TiffFile) -> list[TiffPage]:
    """Those that are frames, and all alike; nothing is decoded yet."""
    pages = cast("list[TiffPage]", list(file.pages))
    pages = [page for page in pages if not page.is_reduced and not page.is_mask]
    if not pages:
        raise Unreadable("holds no page, expected at least one")
    first = pages[0]
    for page in pages:
        check_size(page.imagewidth, page.imagelength, len(pages) * page.imagedepth)
        if page.imagedepth != 1:
            raise Unreadable(TRUNCATED)
        for what in ("shape", "dtype", "photometric", "bitspersample", "extrasamples"):
            if getattr(page, what) != getattr(first, what):
                raise Unreadable(f"has pages that differ in {what}, expected frames alike")
    if sum(series.size for series in file.series) > sum(page.size for page in file.pages):
        raise Unreadable(TRUNCATED)
    return pages


def _counts(page: TiffPage, bits: int | None) -> tuple[np.ndarray, int]:
    """Unsigned [height, width, 1 or 3], and the count that is 1."""
    if page.photometric not in (WHITE_IS_0, BLACK_IS_0, RGB, PALETTE) and not (
        page.photometric == YCBCR and page.compression == JPEG  # its decoder gives RGB
    ):
        raise Unreadable(f"is in {_named(page.photometric)} colours, expected greyscale, RGB or a palette")
    samples = _samples(page)
    extra = tuple(int(kind) for kind in page.extrasamples)
    colour = samples[..., : samples.shape[-1] - len(extra)]
    expected = 1 if page.photometric in (WHITE_IS_0, BLACK_IS_0, PALETTE) else 3
    if colour.shape[-1] != expected or extra not in ((), (PREMULTIPLIED,), (ALPHA,)):
        raise Unreadable(
            f"has {samples.shape[-1]} samples per pixel in {_named(page.photometric)}, of which {len(extra)} "
            f"extra, expected {expected} and at most one of transparency"
        )
    depth = int(page.bitspersample)
    if page.photometric == PALETTE:
        assert page.colormap is not None
        if 0 < page.colormap.max() < 256:
            raise Unreadable("has a palette that ends at 255, expected colours of 16 bits as TIFF has them")
        colour, full = np.moveaxis(page.colormap.astype(np.uint16)[:, colour[..., 0]], 0, -1), 2**16 - 1
    else:
        if bits is None:
            _check_most(page, 2**depth - 1)
        full = full_scale(colour, depth, bits)
    if page.photometric == WHITE_IS_0:
        colour = full - colour
    if extra == (ALPHA,):
        colour = on_black(colour, samples[..., -1], 2**depth - 1)
    return upright(colour[None], _orientation(page))[0], full


def _own_unit(pages: list[TiffPage], channels: int) -> np.ndarray:
    """float32 [channels, height, width]."""
    page = pages[0]
    if page.photometric != BLACK_IS_0 or page.samplesperpixel != 1:
        raise Unreadable(
            f"holds {page.dtype} samples in {_named(page.photometric)} colours, expected greyscale with 0 as "
            "black where samples are not unsigned"
        )
    if len(pages) != channels:
        raise wrong_channels(len(pages), 1, channels)
    frames = np.stack([_samples(page) for page in pages])
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return upright(frames, _orientation(page))[..., 0].astype(np.float32)


def _samples(page: TiffPage) -> np.ndarray:
    """[height, width, samples] as stored."""
    wide, high = page.tilewidth or page.imagewidth, page.tilelength or page.imagelength
    file = page.parent.filehandle
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False):
        file.seek(offset)
        check_codestream(file.read(size), wide, high)
    samples = page.asarray(maxworkers=1)
    if samples.dtype == bool:
        samples = samples.astype(np.uint8)
    if page.samplesperpixel == 1:
        return samples.reshape(page.imagelength, page.imagewidth, 1)
    return samples if page.planarconfig == 1 else np.moveaxis(samples, 0, -1)


def _check_most(page: TiffPage, full: int) -> None:
    tag = page.tags.get("SMaxSampleValue")
    most = () if tag is None else tag.value if isinstance(tag.value, tuple) else (tag.value,)
    if any(value != full for value in most):
        raise Unreadable(
            f"has SMaxSampleValue {most[0]}, which may be its scale or its own brightest sample: declare "
            f'"bits" (16 if its scale ends at 65535)'
        )


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get("Orientation")
    return 1 if tag is None else int(tag.value)


def _named(photometric: int) -> str:
    return getattr(photometric, "name", str(photometric))
