"""The names that files get."""

from __future__ import annotations

import hashlib
import re

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
