"""Tables, read row by row: .csv, .csv.gz, .xlsx and .parquet through the same `Row`; and .csv written."""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.cells import Row, escaped, unescaped
from robustmdiff.data.tables.csv_rows import LONGEST, LongCellError, csv_rows
from robustmdiff.data.tables.parquet_rows import parquet_rows
from robustmdiff.data.tables.xlsx_rows import xlsx_rows
from robustmdiff.spelling import canonical, did_you_mean, nearest
from robustmdiff.whole import write_whole

# Each yields the header and then every row, as (where it stands, its cells).
FORMATS = {".csv": csv_rows, ".csv.gz": csv_rows, ".xlsx": xlsx_rows, ".parquet": parquet_rows}


def find_table(root: Path, stem: str) -> Path:
    """root/stem.csv, .csv.gz, .xlsx or .parquet, the one that is there."""
    found = [root / (stem + suffix) for suffix in FORMATS if (root / (stem + suffix)).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root}: has {' and '.join(path.name for path in found)}, expected one of them")
    hint = " (no such folder)"
    if root.is_dir():
        near = [path.name for path in root.iterdir() if path.name.lower().startswith(f"{stem.lower()}.")]
        hint = f" (there is {', '.join(sorted(near))})" if near else ""
    *others, last = (stem + suffix for suffix in FORMATS)
    raise DataError(f"{root}: has no {', '.join(others)} or {last}{hint}")


def read_header(path: Path) -> list[str]:
    """The names of a table's columns, as `read_table` knows them."""
    _, header = next(_format(path), ("", []))
    return [unescaped(name.strip()) for name in header]


def read_table(
    path: Path,
    required: Sequence[str],
    renamed: Mapping[str, str] | None = None,
    allowed: Sequence[str] = (),
    texts: Sequence[str] = (),
    bad: BadRows | None = None,
) -> Iterator[Row]:
    """Rows of a table, streamed, cells stripped of blanks around them.

    A column named as a key of `renamed` goes by its value; one whose name is another spelling of one
    of `required` or `allowed` (`spelling.canonical`) by that. Columns without a name (a trailing comma)
    must be blank. At the end warns of cells that were read as less than they say (`Row.tally`).

    texts   columns of texts, which may be kept in files of their own instead (NAME_file).
    bad     notes the rows that do not fit the header, which are left out; without it the first is an error.

    Raises DataError, naming the file and the row, for a column of `required` that is not there, one
    not in `allowed` (if given), a name used twice, a row of another length, or a cell of more than
    131,072 characters.
    """
    rows = _format(path)
    tally = Counter[tuple[str, str]]()
    known = {canonical(name): name for name in (*allowed, *required)}
    known |= {name: name for name in (*allowed, *required)}
    where, cells = f"{path.name}:1", list[str]()
    try:
        where, cells = next(rows, (where, cells))
        header = [_column(name, known, renamed or {}) for name in cells]
        check_columns(where, header, required, allowed)
        for where, cells in rows:
            row = Row(where, {n: unescaped(c.strip()) for n, c in zip(header, cells, strict=False)}, tally)
            if not any(map(str.strip, cells)):
                continue  # a blank line
            problem = _misfit(cells, row, header)
            if problem and bad:
                bad.problems.append(problem)
                continue
            if problem:
                raise DataError(problem)
            if len(max(cells, key=len)) > LONGEST:
                raise LongCellError(f"{where}: has a cell of more than {LONGEST:,} characters")
            yield row
    except LongCellError as error:
        files = " or ".join(f"{name}_file" for name in texts)
        way_out = f" (a long text goes into a file, named in column {files})" if files else ""
        raise DataError(f"{error}, expected shorter ones{way_out}") from error
    for (column, what), count in tally.items():
        warnings.warn(f"{path.name}, column {column!r}: cells where {what}: {count}", stacklevel=2)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A .csv, whole or not at all, in which no spreadsheet finds a formula; `read_table` gives the cells
    back as they were."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(escaped, columns))
    writer.writerows([escaped(row[column]) for column in columns] for row in rows)
    write_whole(path, text.getvalue().encode())


def _format(path: Path) -> Iterator[tuple[str, list[str]]]:
    suffix = next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise DataError(f"{path.name}: is no table, expected one of {', '.join(FORMATS)}")
    return FORMATS[suffix](path)


def _misfit(cells: list[str], row: Row, header: list[str]) -> str:
    """How a row does not fit the header; empty where it does."""
    if len(cells) != len(header):
        quotes = " (a cell with a comma stands in quotes)" if len(cells) > len(header) else ""
        return f"{row.source}: has {len(cells)} cells, expected {len(header)} as in the header{quotes}"
    return f"{row.source}: has {row.cells['']!r} in a column without a name" if row.cells.get("") else ""


def _column(written: str, known: Mapping[str, str], renamed: Mapping[str, str]) -> str:
    name = unescaped(written.strip())
    name = renamed.get(name, name)
    return known.get(name) or known.get(canonical(name), name)


def check_columns(where: str, header: list[str], required: Sequence[str], allowed: Sequence[str]) -> None:
    """DataError for a column of `required` that is not there, one not in `allowed` (if given), one twice."""
    for name in required:
        if name not in header:
            _check_delimiter(where, header)
            close = nearest(name, (other for other in header if other not in required))
            hint = f" (is it {close!r}?)" if close else ""
            raise DataError(f"{where}: column {name!r} is missing{hint}; there are {', '.join(header)}")
    for name in header if allowed else ():
        if name and name not in allowed:
            hint = did_you_mean(name, allowed)
            raise DataError(f"{where}: column {name!r} is unknown{hint}; known are {', '.join(allowed)}")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{where}: columns {', '.join(map(repr, twice))} occur twice, expected once")


def _check_delimiter(where: str, header: list[str]) -> None:
    for character, its_name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(character in name for name in header):
            raise DataError(
                f"{where}: columns stand between {its_name}, expected commas (and decimal points in numbers)"
            )
