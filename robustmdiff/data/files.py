"""Tables read row by row, files written whole."""

from __future__ import annotations

import csv
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TextIO

from robustmdiff.data.patient import DataError

UNREADABLE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)


class Row(NamedTuple):
    """One row of a table; `source` is "file.csv:118", the line it starts on."""

    source: str
    cells: Mapping[str, str]

    def number(self, column: str, low: float, high: float) -> float | None:
        """The cell as a number in [low, high]; None where it is blank."""
        cell = self.cells.get(column, "")
        if not cell:
            return None
        try:
            number = float(cell)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise self.error(column, f"expected a number from {low:g} to {high:g}, or nothing")
        return number

    def one_of(self, column: str, choices: Mapping[str, str]) -> str | None:
        """What the cell stands for in `choices` (lower-case keys); None where it is blank."""
        cell = self.cells.get(column, "")
        if not cell:
            return None
        if cell.lower() not in choices:
            raise self.error(column, f"expected one of {', '.join(choices)}, or nothing")
        return choices[cell.lower()]

    def error(self, column: str, expected: str) -> DataError:
        return DataError(f"{self.source}, column {column!r}: is {self.cells.get(column, '')!r}, {expected}")


def read_table(
    path: Path,
    required: Sequence[str],
    renamed: Mapping[str, str] | None = None,
    allowed: Sequence[str] = (),
) -> Iterator[Row]:
    """Rows of a .csv or .csv.gz (UTF-8), streamed, cells stripped of blanks around them.

    A column named as a key of `renamed` goes by its value. Columns without a name (a trailing
    comma) must be blank. Raises DataError, naming the file and the row, for a column of `required`
    that is not there, one not in `allowed` (if given), a name used twice, or a row of another
    length.
    """
    line = 1
    try:
        with _open(path) as file:
            reader = csv.reader(file, strict=True)
            header = [(renamed or {}).get(name.strip(), name.strip()) for name in next(reader, [])]
            _check_header(path, header, required, allowed)
            line = reader.line_num + 1  # a quoted cell may run over several lines
            for cells in reader:
                row = Row(f"{path.name}:{line}", dict(zip(header, map(str.strip, cells), strict=False)))
                line = reader.line_num + 1
                if not any(map(str.strip, cells)):
                    continue  # a blank line
                if len(cells) != len(header):
                    raise DataError(
                        f"{row.source}: has {len(cells)} cells, expected {len(header)} as in the header"
                    )
                if row.cells.get(""):
                    raise DataError(f"{row.source}: has {row.cells['']!r} in a column without a name")
                yield row
    except UNREADABLE as error:
        raise DataError(
            f"{path.name}:{line}: cannot be read as a table ({error}), expected UTF-8 .csv or .csv.gz"
        ) from error


def read_header(path: Path) -> list[str]:
    """The names of a table's columns."""
    try:
        with _open(path) as file:
            return [name.strip() for name in next(csv.reader(file, strict=True), [])]
    except UNREADABLE as error:
        raise DataError(
            f"{path.name}:1: cannot be read as a table ({error}), expected UTF-8 .csv or .csv.gz"
        ) from error


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _check_header(path: Path, header: list[str], required: Sequence[str], allowed: Sequence[str]) -> None:
    for name in required:
        if name not in header:
            spare = {other.lower(): other for other in header if other not in required}
            close = get_close_matches(name.lower(), spare, n=1)
            hint = f" (is it {spare[close[0]]!r}?)" if close else ""
            raise DataError(f"{path.name}:1: column {name!r} is missing{hint}; there are {', '.join(header)}")
    for name in header if allowed else ():
        if name and name not in allowed:
            close = get_close_matches(name, allowed, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DataError(
                f"{path.name}:1: column {name!r} is unknown{hint}; known are {', '.join(allowed)}"
            )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{path.name}:1: columns {', '.join(map(repr, twice))} occur twice, expected once")


def find_table(root: Path, stem: str) -> Path:
    """root/stem.csv or root/stem.csv.gz, whichever is there."""
    for suffix in (".csv", ".csv.gz"):
        if (root / (stem + suffix)).is_file():
            return root / (stem + suffix)
    raise DataError(
        f"{root}: has no {stem}.csv or {stem}.csv.gz" + ("" if root.is_dir() else " (no such folder)")
    )


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
