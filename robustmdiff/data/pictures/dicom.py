"""DICOM images: one file, a file of several frames, or a series as a folder.

Only pixels leave this module: no field that says whose they are is kept or named in a message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.codestreams import check_codestream, check_rle
from robustmdiff.data.pictures.dicom_series import Slice, is_volume, slices_of
from robustmdiff.data.pictures.raster import (
    Raster,
    Unreadable,
    central_slices,
    check_size,
    decoding,
    full_scale,
    to_channels,
    wrong_channels,
)

COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # all decoded to RGB
MOST_WHOLE = 2**26  # bytes of a file that is read whole; of a larger one only the frame
RLE = "1.2.840.10008.1.2.5"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
BURNED_IN = "says that annotation is burned into its pixels: names or dates may be readable there"
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


def read_dicom(path: Path, modality: Modality) -> Raster:
    """Grey pixels in the unit that the file's rescale gives (HU of CT); or, where the modality's window
    lies within [0, 1] and counts are unsigned and have no rescale, as shares of the end of BitsStored;
    or, where the window is "file", through the file's first VOI window, else its VOI LUT, to [0, 1].
    MONOCHROME1 is inverted. Colours are shares: RGB for three channels, grey for one.

    The slices of a folder, or of a file that says where each of its frames lies, give the central ones
    in order of position; frames that lie nowhere must be as many as the channels.
    """
    assert modality.shape is not None
    channels = modality.shape[0]
    with decoding("a DICOM image"):
        slices = slices_of(path)
        if is_volume(slices):
            slices = [slices[n] for n in central_slices(len(slices), channels)]
        header = slices[0].header
        check_size(int(header.Columns), int(header.Rows), len(slices))
        if int(header.get("SamplesPerPixel", 1)) == 3 or header.PhotometricInterpretation == "PALETTE COLOR":
            if channels != len(slices) and not (len(slices) == 1 and channels == 3):
                raise wrong_channels(len(slices), 3, channels)
            frames, fulls = zip(*(_colours(slice_, modality.bits) for slice_ in slices), strict=True)
            pixels, is_share = to_channels(np.stack(frames), fulls[0], channels), True
        else:
            if len(slices) != channels:
                raise wrong_channels(len(slices), 1, channels)
            greys = [_grey(slice_, modality) for slice_ in slices]
            is_share = greys[0].is_share
            if any(grey.is_share != is_share for grey in greys):
                raise Unreadable("mixes slices with and without a rescale, expected one unit")
            pixels = np.stack([grey.pixels.astype(np.float32) for grey in greys])
        burned_in = any(slice_.header.get("BurnedInAnnotation") == "YES" for slice_ in slices)
        return Raster(pixels, is_share, _tall(slices[0]), BURNED_IN if burned_in else "")


class _Grey(NamedTuple):
    pixels: np.ndarray  # [height, width]
    is_share: bool


def _grey(slice_: Slice, modality: Modality) -> _Grey:
    header = slice_.header
    if header.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable(
            f"is in {header.PhotometricInterpretation} with one sample per pixel, expected MONOCHROME1 or 2"
        )
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    stored = _stored(slice_)
    slope, intercept = _rescale(slice_)
    has_table = "ModalityLUTSequence" in header
    rescaled = has_table or (slope, intercept) != (1, 0)
    window_low, window_high = modality.low_high
    if modality.window == "file":
        share = _through_window(_rescaled(stored, slice_), slice_)
    elif rescaled or header.PixelRepresentation or window_low < 0 or window_high > 1:
        values = _rescaled(stored, slice_)
        if inverted:
            unit = slice_.look_up("PixelValueTransformationSequence", "RescaleType")
            if has_table or unit == "HU" or header.get("Modality") == "CT":
                raise Unreadable("is MONOCHROME1 in a unit of its own, which inverting would spoil")
            ends = -1 if header.PixelRepresentation else 2 ** int(header.BitsStored) - 1  # their sum
            values = ends * slope + 2 * intercept - values
        return _Grey(values, False)
    else:
        share = stored / full_scale(stored, int(header.BitsStored), modality.bits)
    return _Grey(1 - share if inverted else share, True)


def _rescale(slice_: Slice) -> tuple[float, float]:
    """Slope and intercept."""
    slope = float(_first(slice_.look_up("PixelValueTransformationSequence", "RescaleSlope"), 1))
    intercept = float(_first(slice_.look_up("PixelValueTransformationSequence", "RescaleIntercept"), 0))
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise Unreadable(f"has RescaleSlope {slope:g} and RescaleIntercept {intercept:g}, expected a scale")
    return slope, intercept


def _rescaled(stored: np.ndarray, slice_: Slice) -> np.ndarray:
    if "ModalityLUTSequence" not in slice_.header:
        slope, intercept = _rescale(slice_)
        return stored * slope + intercept
    from pydicom.pixels import apply_modality_lut

    return apply_modality_lut(stored, slice_.header).astype(np.float64)


def _colours(slice_: Slice, bits: int | None) -> tuple[np.ndarray, int]:
    """Counts [height, width, 3], and the count that is 1."""
    header = slice_.header
    stored = _stored(slice_)
    if header.PhotometricInterpretation != "PALETTE COLOR":
        if header.PhotometricInterpretation not in COLOURS or stored.shape[-1] != 3:
            raise Unreadable(
                f"is in {header.PhotometricInterpretation}, expected one of {', '.join(COLOURS)}"
            )
        return stored, full_scale(stored, int(header.BitsStored), bits)
    from pydicom.pixels import apply_color_lut

    entries, _, depth = header.RedPaletteColorLookupTableDescriptor
    if header.file_meta.TransferSyntaxUID == BIG_ENDIAN or (depth == 8 and entries not in range(1, 257)):
        raise Unreadable(
            f"has a big-endian palette or one of {entries} entries of {depth} bits, expected 256"
        )
    colours = apply_color_lut(stored, header)[..., :3]
    return colours, full_scale(colours, 8 * colours.dtype.itemsize, int(depth))


def _stored(slice_: Slice) -> np.ndarray:
    """The stored values, [height, width] or [height, width, 3]; YBR as RGB; of each cell only the
    BitsStored up to HighBit (overlays may lie in the others), with their sign."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    header = slice_.header
    is_small = slice_.path.stat().st_size <= MOST_WHOLE
    syntax = header.file_meta.TransferSyntaxUID
    source = dcmread(slice_.path) if is_small else slice_.path
    if is_small and syntax.is_encapsulated:
        check = check_rle if syntax == RLE else check_codestream
        check(_frame(source, slice_.frame), int(header.Columns), int(header.Rows))
    stored = pixel_array(
        source,
        index=slice_.frame,
        correct_unused_bits=False,
        decoding_plugin="pydicom" if syntax == RLE else "",  # pylibjpeg-rle ends the program on bad data
    )
    bits, high, allocated = int(header.BitsStored), int(header.HighBit), int(header.BitsAllocated)
    unused = high + 1 - bits  # below the stored ones
    if stored.dtype.kind not in "iu" or bits < 1 or not 0 <= unused <= high < allocated <= 32:
        raise Unreadable(
            f"has {allocated} bits allocated, {bits} stored and high bit {high}, expected whole numbers of "
            "at most 32 bits"
        )
    if syntax.is_encapsulated and unused:
        raise Unreadable(f"is compressed, with high bit {high} for {bits} bits, expected {bits - 1}")
    cells = (stored.astype(np.int64) >> unused) & (2**bits - 1)
    if header.PixelRepresentation and stored.ndim == 2:
        return np.where(cells >= 2 ** (bits - 1), cells - 2**bits, cells)
    return cells.astype(np.uint32 if bits > 16 else np.uint16)


def _frame(dataset: Any, index: int | None) -> bytes:
    """A compressed frame, as it lies there."""
    from pydicom.encaps import get_frame

    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    frames = int(dataset.get("NumberOfFrames") or 1)
    return get_frame(dataset.PixelData, index or 0, extended_offsets=offsets, number_of_frames=frames)


def _through_window(values: np.ndarray, slice_: Slice) -> np.ndarray:
    """[0, 1], by the functions of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    center = _first(slice_.look_up("FrameVOILUTSequence", "WindowCenter"), None)
    width = _first(slice_.look_up("FrameVOILUTSequence", "WindowWidth"), None)
    function = slice_.look_up("FrameVOILUTSequence", "VOILUTFunction") or "LINEAR"
    if center is None or width is None:
        return _through_table(values, slice_)
    c, w = float(center), float(width)
    if not w > 0 or (function == "LINEAR" and w < 1):
        raise Unreadable(f"has WindowWidth {w:g}, expected 1 or more")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - c) / w))
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise Unreadable(f"has VOILUTFunction {function!r}, expected LINEAR, LINEAR_EXACT or SIGMOID")
    if function == "LINEAR":
        c, w = c - 0.5, w - 1
    if w == 0:
        return (values > c).astype(np.float64)
    return ((values - c) / w + 0.5).clip(0, 1)


def _through_table(values: np.ndarray, slice_: Slice) -> np.ndarray:
    from pydicom.pixels import apply_voi

    tables = slice_.header.get("VOILUTSequence")
    if not tables:
        raise Unreadable('has no VOI window, which "window": "file" asks for')
    whole = np.rint(values)
    if (whole != values).any():
        raise Unreadable("has a VOI LUT for whole numbers, but its rescale gives fractions")
    return apply_voi(whole.astype(np.int64), slice_.header, 0) / (2 ** int(tables[0].LUTDescriptor[2]) - 1)


def _first(value: Any, default: Any) -> Any:
    """The first value of a field that may hold several."""
    from pydicom.multival import MultiValue

    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return default if value is None or value == "" else value


def _tall(slice_: Slice) -> float:
    """The height of a pixel over its width."""
    for keyword in SPACINGS:
        spacing = slice_.look_up("PixelMeasuresSequence", keyword)
        if spacing is not None and len(spacing) == 2:
            return float(spacing[0]) / float(spacing[1])
    return 1.0
