"""Who asked which model when, and how it ended: one line of JSON each, without anything of a patient."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """request   the server's own id of it, which the answer's X-Request-Id repeats
    route     what was asked
    who       the name of the token; None where none is asked for, or none was known
    model, version, manifest  which answered, and the SHA-256 of its manifest; None where none was reached
    outcome   the HTTP status
    """

    request: str
    route: str
    who: str | None
    model: str
    version: str | None
    manifest: str | None
    outcome: int


class Audit:
    """Appends to a file, one write an entry."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, entry: Entry) -> None:
        """Raises OSError where it cannot be written, or not whole."""
        line = json.dumps({"when": datetime.now(UTC).isoformat()} | asdict(entry)).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the audit record was not written whole")
