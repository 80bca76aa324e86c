"""Files of a source, plain or gzipped: their lines and table rows, with errors that name file and line."""

from __future__ import annotations

import csv
import errno
import gzip
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from robustmdiff.refusal import Refusal

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


class OntologyError(Refusal):
    """A knowledge source is not what its format promises; the message starts with file:line."""

    def __init__(self, path: str | Path, line: int | None, problem: str):
        self.path, self.line = Path(path), line
        super().__init__(f"{path}: {problem}" if line is None else f"{path}:{line}: {problem}")


def not_there(path: str | Path, problem: str) -> FileNotFoundError:
    """The error for a file or folder that is needed and is not there."""
    return FileNotFoundError(errno.ENOENT, problem, str(path))


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Stream (line number from 1, line without its end) of a UTF-8 file, gzipped or not.

    Compression is told by the file's first bytes, not by its name. Raises OntologyError for
    bytes that are not UTF-8 and for compressed data that is damaged or ends early.
    """
    number = 0
    with unpacked(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            problem = f"byte {error.object[error.start]:#04x} at column {error.start + 1} is not UTF-8"
            raise OntologyError(path, number, problem) from error
        except DAMAGE as error:
            raise damaged(path, number + 1, error) from error


@contextmanager
def unpacked(path: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, gzipped or not, which its first bytes tell. Reading may raise DAMAGE."""
    with open(path, "rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw


def damaged(path: str | Path, line: int, error: Exception) -> OntologyError:
    """The error for compressed data that is broken in or after `line`."""
    if isinstance(error, EOFError):
        problem = "the compressed data ends early, in or after this line; fetch the file again"
    else:
        problem = f"the compressed data is damaged in or after this line ({error}); fetch the file again"
    return OntologyError(path, line, problem)


def table_rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Stream (line number, the cells of `columns`) of a tab-separated table with a header.

    Columns are found by name; others may stand beside them. Cells may be quoted. Raises
    OntologyError for a missing column and for a row with another number of cells than the header.
    """
    lines = numbered_lines(path)
    number, header_line = next(lines, (1, ""))
    header = _cells(header_line)
    missing = [name for name in columns if name not in header]
    if missing:
        raise OntologyError(path, number, f"no column {missing[0]!r}; the header has {header}")
    at = [header.index(name) for name in columns]
    for number, line in lines:
        if not line:
            continue
        cells = _cells(line)
        if len(cells) != len(header):
            raise OntologyError(path, number, f"{len(cells)} cells, expected {len(header)} as in the header")
        yield number, [cells[i] for i in at]


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split("\t")
    return next(csv.reader([line], delimiter="\t"))


def find_file(folder: str | Path, *names: str) -> Path | None:
    """The first of `names` that is in `folder`, plain or with .gz behind it; None if none is."""
    paths = (Path(folder, name + end) for name in names for end in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def warn_of_missing(folder: str | Path, missing: Mapping[str, str]) -> None:
    """Say which files of a source are not there and what the table therefore lacks."""
    if missing:
        lacks = ", ".join(f"{what} (no {name})" for name, what in missing.items())
        warnings.warn(f"{folder}: the concepts are without {lacks}", stacklevel=3)
