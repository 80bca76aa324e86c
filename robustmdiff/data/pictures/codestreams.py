"""What a compressed picture says of its own size: JPEG, JPEG-LS and JPEG 2000, as DICOM and TIFF hold them;
and how long the run lengths of DICOM's RLE are.

A decoder goes by that and not by the file's header, so a few bytes may ask for gigabytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from robustmdiff.data.pictures.raster import Unreadable

BLOCK = 16
JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Start of frame: ITU-T T.81, table B.1 (without DHT, JPG and DAC, which lie between), and of JPEG-LS, T.87.
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment


RLE_HEADER = 64  # bytes: the number of segments, and where each begins (PS3.5, G.5)
RLE_SEGMENTS = 15


def check_codestream(stream: bytes, width: int, height: int) -> None:
    """Raises Unreadable where a codestream says that it is larger than the file's header does; up to whole
    blocks of 16 pixels it may be."""
    found = stated_size(stream)
    most = [-(-side // BLOCK) * BLOCK for side in (width, height)]
    if found is not None and (found[0] > most[0] or found[1] > most[1]):
        raise Unreadable(
            f"holds a compressed picture of {found[0]} x {found[1]} pixels, expected {width} x {height} as "
            "its header says"
        )


def stated_size(stream: bytes) -> tuple[int, int] | None:
    """Width and height; None where it is of no kind that is known here, or ends before it says."""
    if stream.startswith(JPEG):
        return _jpeg_size(stream)
    start = stream.find(JPEG_2000, 0, 2**12)  # after the boxes of a JP2 file, where it is one
    if start < 0:
        return None
    x, y, x_offset, y_offset = (_number(stream, start + 8 + 4 * i, 4) for i in range(4))
    return x - x_offset, y - y_offset


def check_rle(frame: bytes, width: int, height: int) -> None:
    """Raises Unreadable where a segment of a frame in DICOM's RLE (PS3.5, annex G) decodes to more than twice
    the bytes of a plane; a few bytes of padding it may have."""
    count = min(_number(frame, 0, 4, "little"), RLE_SEGMENTS)
    starts = [_number(frame, 4 + 4 * i, 4, "little") for i in range(count)]
    for start, end in pairwise([*starts, len(frame)]):
        if _longer_than(2 * width * height, frame[start:end]):
            raise Unreadable(
                f"holds a run-length segment of more than {2 * width * height} bytes, expected {width} x "
                f"{height} as its header says"
            )


def _longer_than(most: int, segment: bytes) -> bool:
    """Whether PackBits gives more than `most` bytes; counted, not decoded."""
    at = found = 0
    while at < len(segment) and found <= most:
        control = segment[at]
        if control < 128:  # so many bytes and one follow
            at += control + 2
            found += control + 1
        elif control > 128:  # the next byte, 257 - control times
            at += 2
            found += 257 - control
        else:
            at += 1
    return found > most


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """The size of the largest frame that it announces before its first scan."""
    at, found = 2, None
    while at + 4 <= len(stream):
        if stream[at] != 0xFF or stream[at + 1] in (0x00, 0xDA):  # no marker, or the scan
            break
        marker = stream[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in ALONE:
            at += 2
        else:
            if marker in FRAMES:
                size = _number(stream, at + 7, 2), _number(stream, at + 5, 2)
                found = size if found is None else (max(found[0], size[0]), max(found[1], size[1]))
            at += 2 + max(_number(stream, at + 2, 2), 2)
    return found


def _number(stream: bytes, at: int, size: int, order: Literal["big", "little"] = "big") -> int:
    return int.from_bytes(stream[at : at + size], order)
