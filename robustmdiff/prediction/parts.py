"""The answers so far, in a folder beside the file that they are for.

predictions.parquet.parts/
  asked.json      the question (`question`)
  00000017.json   the answers to batch 17 (`Answered`), written whole

Whoever starts again goes on with the batches that have no part. The file is made of all parts at the end, in
the patients' order, and the folder is removed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustmdiff.data.patient import DataError
from robustmdiff.prediction.answering import COLUMNS, Answered
from robustmdiff.whole import open_whole, write_whole

ROW_GROUP = 65_536  # rows of the file that are in memory at a time


class Parts:
    """The parts of a file `out`, of the question `asked`. Raises DataError where its folder holds answers to
    another one."""

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.parts")
        note = self.folder / "asked.json"
        if not note.exists():
            if self.folder.exists():  # of a process that was killed while it removed them
                shutil.rmtree(self.folder)
            write_whole(note, json.dumps(asked, indent=1).encode(), sync=True)
        before = json.loads(note.read_text(encoding="utf-8"))
        for name, now in asked.items():
            if before.get(name) != now:
                raise DataError(
                    f"{self.folder}: holds answers to another question ({name} is {before.get(name)!r} there "
                    f"and {now!r} now), expected the same, or no such folder"
                )

    def finished(self, *, complete: bool) -> set[int]:
        """The batches that have a part; with `complete` those of which nobody was left out."""
        numbers = {int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdigit()}
        return {number for number in numbers if not (complete and self.read(number).left_out)}

    def keep(self, number: int, answered: Answered) -> None:
        write_whole(self._path(number), json.dumps(answered._asdict()).encode(), sync=True)

    def read(self, number: int) -> Answered:
        return Answered(**json.loads(self._path(number).read_text(encoding="utf-8")))

    def join(self, batches: int) -> tuple[int, list[str]]:
        """Writes the file of that many parts and removes them -> its rows, and all who were left out."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        kinds = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
        schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        written, rows, left_out = 0, list[dict[str, Any]](), list[str]()
        joined = self.folder / "joined.parquet"
        with open_whole(joined, sync=True) as file, ParquetWriter(file, schema) as writer:
            for number in range(batches):
                part = self.read(number)
                rows += part.rows
                left_out += part.left_out
                if len(rows) >= ROW_GROUP or number == batches - 1:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    written += len(rows)
                    rows = []
        os.replace(joined, self.out)
        shutil.rmtree(self.folder)
        return written, left_out

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"
