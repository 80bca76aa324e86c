"""The rows of a .csv or .csv.gz in UTF-8, with the true line of whatever is wrong."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from robustmdiff.data.patient import DataError

LONGEST = 131_072  # characters of a cell, as Python's csv has it
LONGEST_LINE = 2**24  # characters; a small file can unpack to any length
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what a byte that is not UTF-8 is read as


class LongCellError(DataError):
    """A cell is longer than a table can hold."""


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """("file.csv:118", cells) of the header and of every row, at the line that it starts on. Raises
    DataError, naming file and line; LongCellError for a cell of more than `LONGEST` characters."""
    line = 1
    try:
        with _open(path) as file:
            reader = csv.reader(_checked(path, file), strict=True)
            for cells in reader:
                yield f"{path.name}:{line}", cells
                line = reader.line_num + 1  # a quoted cell may run over several lines
    except csv.Error as error:
        if str(error).startswith("field larger than"):
            raise LongCellError(
                f"{path.name}:{line}: has a cell of more than {LONGEST:,} characters, or an open quote"
            ) from error
        raise DataError(f"{path.name}:{line}: cannot be read as a table ({error})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path.name}:{line}: cannot be read as a table ({error}), expected UTF-8 .csv or .csv.gz"
        ) from error


def _open(path: Path) -> TextIO:
    # Decoding goes in blocks, so that its own errors would not know the line.
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _checked(path: Path, file: TextIO) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), ""), start=1):
        where = f"{path.name}:{number}: cannot be read as a table"
        if len(line) == LONGEST_LINE:
            raise DataError(f"{where} (a line of {LONGEST_LINE:,} characters or more), expected shorter ones")
        if number == 1 and line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
            raise DataError(f"{where} (it is UTF-16), expected UTF-8")
        wrong = NOT_UTF8.search(line)
        if wrong:
            byte = ord(wrong[0]) - 0xDC00
            raise DataError(
                f"{where} (byte {byte:#04x} after {line[: wrong.start()][-20:]!r} is not UTF-8; in Latin-1 "
                f"it is {chr(byte)!r}), expected UTF-8"
            )
        if "\0" in line:
            raise DataError(f"{where} (it holds a NUL byte, as UTF-16 does), expected UTF-8")
        yield line
