"""Writes PNG of any kind, as Pillow cannot: 16 bits of several channels, fewer bits, any chunk."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # by samples per pixel


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(
    path: Path,
    samples: np.ndarray,  # [height, width, samples], unsigned
    depth: int = 16,
    chunks: dict[bytes, bytes] | None = None,
    size: tuple[int, int] | None = None,
) -> Path:
    """`size` (width, height) in place of the true one, for a header that lies."""
    height, width = samples.shape[:2]
    rows = []
    for row in samples:
        if depth >= 8:
            rows.append(row.astype(f">u{depth // 8}").tobytes())
        else:
            bits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :]
            rows.append(np.packbits(bits.reshape(-1)).tobytes())
    head = struct.pack(">IIBBBBB", *(size or (width, height)), depth, COLOUR[samples.shape[2]], 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(chunk(name, extra) for name, extra in (chunks or {}).items())
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )
    return path
