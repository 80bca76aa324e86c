"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes, *, sync: bool = False) -> None:
    """`open_whole` for a content that is at hand."""
    with open_whole(path, sync=sync) as file:
        file.write(content)


@contextmanager
def open_whole(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write in, that is there in one step when the block ends: whoever looks sees the old content
    or all of the new. Makes its folder.

    sync  waits until the disk has it, so that the machine may lose power, too.

    Raises OSError where it cannot be written; what was there before stays, as it does after any other error
    inside the block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
