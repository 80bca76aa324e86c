"""What a reader of a run has to know: what was adapted to little data, and what little data cannot show."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from robustmdiff.whole import write_whole

NOTES = "notes.json"


class Note(NamedTuple):
    """topic     what it is of, such as "batch_size" or "monitor"
    n         the number the sentence rests on: of patients, of steps
    sentence  whole, for the log, a table or a page"""

    topic: str
    n: int
    sentence: str


def write_notes(notes: Iterable[Note], folder: Path) -> None:
    write_whole(folder / NOTES, json.dumps([note._asdict() for note in notes], indent=1).encode())


def read_notes(folder: Path) -> list[Note]:
    """The notes of a run; none of one that an earlier version trained."""
    if not (folder / NOTES).exists():
        return []
    return [Note(**note) for note in json.loads((folder / NOTES).read_text(encoding="utf-8"))]
