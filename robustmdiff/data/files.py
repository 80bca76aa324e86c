"""Files written whole, and the names they get."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,99}(?<!\.)")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # by Windows


def file_name(id: str) -> str:
    """A file's name for an id, without a suffix: the id itself if it is short and of a-z, 0-9, "_", "-"
    and "." alone, else what is left of it and 64 bits of its SHA-256. Different ids have different
    names, on file systems that ignore case too, and no name is a path."""
    if PLAIN.fullmatch(id) and not RESERVED.fullmatch(id):
        return id
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{re.sub(r'^-|[^A-Za-z0-9_-]', '_', id)[:80]}~{digest[:16]}"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file in one step: whoever looks sees the old content or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
