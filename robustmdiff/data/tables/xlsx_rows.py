"""The rows of the sheet of patients in an .xlsx, streamed. Needs openpyxl."""

from __future__ import annotations

import datetime
import re
import zipfile
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.cells import written
from robustmdiff.data.tables.csv_rows import LongCellError

CUT = 32_767  # characters; Excel drops what is beyond
STRINGS = 2**28  # bytes of texts that sheets share, all held in memory; 2 GB or so
# What zipfile and openpyxl raise for a damaged or encrypted file: openpyxl builds its objects, by their
# keywords, from whatever the XML says.
UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, SyntaxError),
    *(ValueError, TypeError, LookupError, OverflowError),
)
FORMULA = re.compile(rb"<(?:\w+:)?f[ />]")
STALE = re.compile(rb'fullCalcOnLoad="(?:1|true)"')
MERGED = re.compile(rb'<(?:\w+:)?mergeCell [^>]*?ref="([^"]+)"')
QUOTED = re.compile(r'"[^"]*"|\\.|\[[^]]*\]')  # of a number format: what is no digit or percent
CONTROL = re.compile(r"_x00([01][0-9A-Fa-f])_")  # how the format writes a control character


def xlsx_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """("file.xlsx, sheet 'S', row 1", cells) of the header and of every row, as long as the header.

    The sheet is the only one that is filled, or the one named as the file. A cell is what the sheet
    shows where that matters: 7 % for 0.07 in a format of percent, 007 for 7 in a format of zeros; a
    whole number has no point; dates and times are ISO 8601. Raises DataError for merged cells, a
    formula without a value of its own, and a cell that holds an error.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"{path.name}: needs openpyxl, expected it installed (pip install 'robustmdiff[tables]')"
        ) from error

    where = path.name
    try:
        stale = _check_parts(path)
        values = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = _sheet(path, values)
            where = f"{path.name}, sheet {sheet.title!r}"
            has_formulas = _scan(where, sheet)
            rows = _values(where, sheet)
            if has_formulas:
                rows = _computed(where, path, sheet, stale)
            width = 0
            for number, cells in enumerate(rows, start=1):
                while cells and not cells[-1] and len(cells) > width:
                    cells.pop()
                width = width or len(cells)
                yield f"{where}, row {number}", cells + [""] * (width - len(cells))
        finally:
            values.close()
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where}: cannot be read as a workbook ({error}), expected .xlsx without a password"
        ) from error


def _check_parts(path: Path) -> bool:
    """Whether the file asks for all formulas to be computed when it opens, as libraries do that cannot
    compute and write a 0; raises for more text than memory should hold."""
    with zipfile.ZipFile(path) as archive:
        size = {part.filename: part.file_size for part in archive.infolist()}
        texts = sum(size[name] for name in size if name.endswith("sharedStrings.xml"))
        if texts > STRINGS:
            raise DataError(f"{path.name}: holds {texts >> 20} MB of text, expected {STRINGS >> 20} at most")
        return any(STALE.search(archive.read(name)) for name in size if name.endswith("workbook.xml"))


def _sheet(path: Path, workbook: Any) -> Any:
    sheets = workbook.worksheets
    for sheet in sheets:
        sheet.reset_dimensions()  # what a file says of its size may be wrong
    named = [sheet for sheet in sheets if sheet.title.lower() == path.stem.lower()]
    filled = named or [sheet for sheet in sheets if any(map(any, sheet.iter_rows(values_only=True)))]
    if len(filled) > 1:
        names = ", ".join(repr(sheet.title) for sheet in filled)
        raise DataError(f"{path.name}: has sheets {names}, expected one, or one named {path.stem!r}")
    if not sheets:
        raise DataError(f"{path.name}: has no sheet of cells, expected one")
    return (filled or sheets)[0]


def _scan(where: str, sheet: Any) -> bool:
    """Whether the sheet has formulas; raises for merged cells, of which a stream of rows knows nothing."""
    has_formulas, tail = False, b""
    with sheet._get_source() as xml:
        while block := xml.read(2**20):
            merged = MERGED.search(tail + block)
            if merged:
                raise DataError(
                    f"{where}: cells {merged[1].decode()} are merged, expected one value to a cell"
                )
            has_formulas = has_formulas or FORMULA.search(tail + block) is not None
            tail = block[-256:]
    return has_formulas


def _values(where: str, sheet: Any) -> Iterator[list[str]]:
    for row in sheet.iter_rows():
        yield [_text(where, cell) for cell in row]


def _computed(where: str, path: Path, sheet: Any, stale: bool) -> Iterator[list[str]]:
    """As `_values`, of a sheet with formulas: each must have been computed and none be stale."""
    import openpyxl

    formulas = openpyxl.load_workbook(path, read_only=True)
    try:
        twin = formulas[sheet.title]
        twin.reset_dimensions()
        for row, written_row in zip(sheet.iter_rows(), twin.iter_rows(), strict=True):
            for cell, formula in zip(row, written_row, strict=True):
                # An empty text that was computed has the type "str".
                if formula.data_type == "f" and (stale or (cell.value is None and cell.data_type != "str")):
                    raise DataError(
                        f"{where}, cell {formula.coordinate}: is a formula that no spreadsheet has computed, "
                        "expected a value (open the file in one and save it)"
                    )
            yield [_text(where, cell) for cell in row]
    finally:
        formulas.close()


def _text(where: str, cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "e":
        raise DataError(f"{where}, cell {cell.coordinate}: is the error {value}, expected a value or nothing")
    if isinstance(value, str):
        if len(value) >= CUT:
            raise LongCellError(
                f"{where}, cell {cell.coordinate}: is a text of {CUT:,} characters, where Excel cuts"
            )
        return CONTROL.sub(lambda code: chr(int(code[1], 16)), value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = QUOTED.sub("", cell.number_format)
        if "%" in shown:
            return f"{(Decimal(repr(value)) * 100).normalize():f} %"
        if re.fullmatch("0+", shown) and value == int(value) >= 0:
            return f"{int(value):0{len(shown)}d}"
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return written(value)
