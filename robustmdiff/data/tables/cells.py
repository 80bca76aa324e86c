"""What the cells of a table say: names, texts, numbers, flags. docs/data.md has the rules as a table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.units import SAME, conversion
from robustmdiff.spelling import match

NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
MEASURED = re.compile(rf"(?P<bound><=|>=|=<|=>|[<>≤≥⩽⩾])?\s*(?P<number>{NUMBER})\s*(?P<unit>.*)", re.DOTALL)
LARGEST = 3.4028234663852886e38  # of float32, in which a model computes
# How pandas, R, Excel and databases write a value that is not there.
MISSING = frozenset(("nan", "NaN", "NA", "<NA>", "NaT", "#N/A", "None", "NULL", "null"))
SHORTENED = re.compile(r"[0-9](?:\.[0-9]+)?[eE]\+[0-9]+")  # how a spreadsheet shows, and saves, a long number
FLAGS = {"true": 1.0, "false": 0.0}
# A spreadsheet runs a cell that begins so; an apostrophe in front makes it a text.
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


class Row(NamedTuple):
    """One row of a table; `source` is "file.csv:118", the line it starts on.

    tally   cells of the whole table that were read as less than they say, counted by column and what
            was done; `read_table` warns of them at its end.
    """

    source: str
    cells: Mapping[str, str]
    tally: Counter[tuple[str, str]]

    def name(self, column: str) -> str:
        """The cell as the name of something, as it is written; "" where it is blank."""
        cell = self.text(column) or ""
        if SHORTENED.fullmatch(cell):
            raise self.error(column, "which is a long number cut short by a spreadsheet, expected its digits")
        return cell

    def text(self, column: str) -> str | None:
        """The cell as it is; None where it is blank."""
        cell = self.cells.get(column, "")
        if cell in MISSING:
            raise self.error(column, "expected a blank cell where there is nothing")
        return cell or None

    def number(self, column: str, low: float, high: float, unit: str = "") -> float | None:
        """The cell as a number in [low, high]; None where it is blank."""
        return self._number(column, low, high, unit, bounds=False)

    def measured(
        self, column: str, low: float = -math.inf, high: float = math.inf, unit: str = ""
    ) -> float | None:
        """As `number`, but "<0.5" and ">100" are read as 0.5 and 100, and counted."""
        return self._number(column, low, high, unit, bounds=True)

    def _number(self, column: str, low: float, high: float, unit: str, bounds: bool) -> float | None:
        cell = self.cells.get(column, "")
        if not cell:
            return None
        read = MEASURED.fullmatch(cell.replace("−", "-"))
        if read and (bounds or not read["bound"]) and (not read["unit"] or _same_unit(read["unit"], unit)):
            number = float(read["number"])
            if max(low, -LARGEST) <= number <= min(high, LARGEST):
                if read["bound"]:
                    self.tally[column, "a bound (such as <0.5) is read as its number"] += 1
                return number
        within = f" from {low:g} to {high:g}" if high < math.inf else " of 0 or more" if low == 0 else ""
        in_unit = f" in {unit}" if unit else ""
        raise self.error(column, f"expected a number{in_unit}{within}, or nothing{_hint(cell, unit, bounds)}")

    def flag(self, column: str, uncertain: bool | None = None) -> bool | None:
        """Whether it holds, by 1 or 0, 1.0 or 0.0, true or false; None where that is unknown: a blank cell
        or one of `MISSING`. -1 (CheXpert's "uncertain") says `uncertain`, and is counted."""
        cell = self.cells.get(column, "")
        if not cell or cell in MISSING:
            return None
        number = FLAGS.get(cell.lower())
        if number is None and re.fullmatch(NUMBER, cell.replace("−", "-")):
            number = float(cell.replace("−", "-"))
        if number not in (0, 1, -1):
            raise self.error(column, "expected one of 1, 0, true, false, -1 (uncertain), or nothing")
        if number == -1:
            said = {None: "unknown", True: "positive", False: "negative"}[uncertain]
            self.tally[column, f"uncertain (-1) is read as {said}"] += 1
            return uncertain
        return number == 1

    def one_of(self, column: str, choices: Mapping[str, str]) -> str | None:
        """What the cell stands for in `choices`, by a key or (`spelling.match`) another spelling of just one
        key; None where it is blank."""
        cell = self.cells.get(column, "")
        if not cell:
            return None
        key = match(cell, choices)
        if key is None:
            raise self.error(column, f"expected one of {', '.join(choices)}, or nothing")
        return choices[key]

    def error(self, column: str, expected: str) -> DataError:
        cell = self.cells.get(column, "")
        shown = cell if len(cell) <= 100 else f"{cell[:100]}..."
        return DataError(f"{self.source}, column {column!r}: is {shown!r}, {expected}")


def brief(value: object) -> str:
    """What a value is, for a message: its type and, of a cell's types, itself, cut short."""
    text = repr(value) if isinstance(value, str | int | float | bool) else ""
    return f"{type(value).__name__} {text[:40]}".rstrip()


def written(value: object) -> str:
    """A value of a typed table as a cell: a whole number without a point, and one of so many digits that
    a float may have rounded it with an exponent, which is good for a number but for no name."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value)) if abs(value) < 1e15 else f"{Decimal(repr(value)).normalize():e}"
    return str(value)


def escaped(value: Any) -> Any:
    """The value as it is written into a table: a text that a spreadsheet would run gets an apostrophe in
    front, and so does one that would be taken for such a text; numbers stay as they are."""
    if isinstance(value, str) and FORMULA.match(value) and not re.fullmatch(NUMBER, value):
        return f"'{value}"
    return value


def unescaped(cell: str) -> str:
    """What `escaped` wrote."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


@lru_cache(maxsize=256)
def _same_unit(written: str, unit: str) -> bool:
    try:
        return bool(unit) and conversion(written, unit) == SAME
    except ValueError:
        return False


def _hint(cell: str, unit: str, bounds: bool) -> str:
    """Why a cell that looks like a number is none."""
    if cell in MISSING or cell.lower() == "nan":
        return "; leave the cell blank where it was not measured"
    if cell.lower().lstrip("+-−") in ("inf", "infinity"):
        return "; write a limit of detection as it is, such as >100"
    if re.search(r"[0-9],[0-9]", cell):
        return "; a comma is neither a decimal point nor between thousands here"
    if re.search(r"[0-9][_'’][0-9]|[0-9]\s[0-9]{3}(?![0-9])|[0-9]\.[0-9]+\.[0-9]", cell):
        return "; nothing stands between thousands here"
    if any(c.isdigit() and not c.isascii() for c in cell):
        return "; digits are 0 to 9"
    read = MEASURED.fullmatch(cell.replace("−", "-"))
    if read and read["bound"] and not bounds:
        return "; a bound is not read here"
    if read and read["unit"] and not unit:
        return "; it has no unit in the task"
    return ""
