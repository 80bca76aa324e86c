from __future__ import annotations

import math
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.cells import MISSING, Row, escaped, unescaped


def row(cell: str) -> Row:
    return Row("t.csv:2", {"x": cell}, Counter())


NUMBERS = {
    "12": 12,
    "12.5": 12.5,
    "12.": 12,
    ".5": 0.5,
    "+5": 5,
    "-3": -3,
    "\u22123": -3,
    "1e3": 1000,
    "1E-3": 0.001,
    "1e\u22123": 0.001,
    "007": 7,
    "12 mg/l": 12,
    "12mg/L": 12,
    "12\u00a0mg/l": 12,
}


@pytest.mark.parametrize(("cell", "value"), NUMBERS.items())
def test_a_number_is_read_as_written(cell, value):
    assert row(cell).number("x", -1e9, 1e9, "mg/l") == value
    assert row(cell).measured("x", unit="mg/l") == value


REFUSED = {
    "text": ("high", "expected a number in mg/l, or nothing$"),
    "decimal comma": ("12,5", "a comma is neither a decimal point nor between thousands here"),
    "thousands": ("1,234", "a comma is neither"),
    "thousands and decimals": ("1.234,5", "a comma is neither"),
    "underscore": ("1_234", "nothing stands between thousands here"),
    "blank": ("1 234", "nothing stands between thousands here"),
    "narrow no-break space": ("1\u202f234", "nothing stands between thousands here"),
    "Swiss": ("1'234", "nothing stands between thousands here"),
    "points": ("1.234.567", "nothing stands between thousands here"),
    "full width": ("\uff11\uff12", "digits are 0 to 9"),
    "Arabic": ("\u0661\u0662", "digits are 0 to 9"),
    "superscript": ("10\u00b2", "digits are 0 to 9"),
    "nan": ("nan", "leave the cell blank where it was not measured"),
    "NaN": ("NaN", "leave the cell blank"),
    "NA": ("NA", "leave the cell blank"),
    "inf": ("inf", "write a limit of detection as it is, such as >100"),
    "-Infinity": ("-Infinity", "write a limit of detection"),
    "beyond float32": ("1e39", "expected a number in mg/l, or nothing"),
    "beyond float64": ("1e999", "expected a number in mg/l, or nothing"),
    "a bound beyond": (">1e39", "expected a number in mg/l, or nothing"),
    "other unit": ("12 mg/dl", "expected a number in mg/l, or nothing"),
    "other case, other unit": ("12 Mg/l", "expected a number in mg/l"),
    "flagged": ("12 H", "expected a number in mg/l"),
    "range": ("5-10", "expected a number in mg/l"),
    "plus or minus": ("5\u00b11", "expected a number in mg/l"),
    "about": ("~5", "expected a number in mg/l"),
    "two bounds": ("<<5", "expected a number in mg/l"),
    "bound alone": ("<", "expected a number in mg/l"),
    "en dash": ("\u20135", "expected a number in mg/l"),
    "hexadecimal": ("0x1F", "expected a number in mg/l"),
    "boolean": ("True", "expected a number in mg/l"),
    "date": ("2021-03-04", "expected a number in mg/l"),
    "time": ("05:06", "expected a number in mg/l"),
    "error": ("#DIV/0!", "expected a number in mg/l"),
}


@pytest.mark.parametrize(("cell", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_number_is_refused_with_the_reason(cell, message):
    with pytest.raises(DataError, match=message) as refusal:
        row(cell).measured("x", unit="mg/l")
    assert str(refusal.value).startswith(
        f"t.csv:2, column 'x': is {cell!r}, expected a number in mg/l, or noth"
    )
    with pytest.raises(
        DataError, match=r"t\.csv:2, column 'x': is .*, expected a number from -9 to 1e\+300, or"
    ):
        row(cell).number("x", -9, 1e300)


BOUNDS = {
    "<0.5": 0.5,
    "> 100": 100,
    "\u22645": 5,
    "\u22655": 5,
    "<=5": 5,
    ">=5": 5,
    "=<5": 5,
    "<\u00a00.5 mg/l": 0.5,
    ">\u22125": -5,
    "<1e-3": 0.001,
}


@pytest.mark.parametrize(("cell", "value"), BOUNDS.items())
def test_a_bound_is_read_as_its_number_and_counted(cell, value):
    read = row(cell)
    assert read.measured("x", unit="mg/l") == value
    assert read.tally == {("x", "a bound (such as <0.5) is read as its number"): 1}
    with pytest.raises(DataError, match="from -9 to 1000, or nothing; a bound is not read here"):
        row(cell).number("x", -9, 1000, "mg/l")


UNITS = [
    ("mg/l", "mg/L", True),
    ("mg/l", "mg / l", True),
    ("\u00b5g/l", "\u03bcg/l", True),
    ("ug/l", "\u00b5g/L", True),
    ("mcg/l", "\u00b5g/l", True),
    ("10^9/l", "10\u2079/L", True),
    ("10^9/l", "x10^9/L", True),
    ("10^9/l", "\u00d710\u2079/l", True),
    ("10*9/L", "10^9/l", True),
    ("degC", "\u00b0C", True),
    ("%", "%", True),
    ("cm^-1", "cm\u207b\u00b9", True),
    ("mg/l", "mg/dl", False),
    ("mmol/l", "umol/l", False),
    ("mg/l", "ng/l", False),
    ("U/l", "mU/l", False),
    ("10^9/l", "10^6/l", False),
    ("10^9/l", "/l", False),
    ("degC", "degF", False),
    ("mmol/l", "Mmol/l", False),
    ("mg/l", "%", False),
    ("g", "mg", False),
    ("", "mg", False),
]


@pytest.mark.parametrize(("declared", "written", "same"), UNITS)
def test_a_unit_in_a_cell_is_that_of_the_field_or_refused(declared, written, same):
    if same:
        assert row(f"4.5 {written}").measured("x", unit=declared) == 4.5
    else:
        message = f"expected a number in {declared}, or nothing" if declared else "has no unit in the task"
        with pytest.raises(DataError, match=re.escape(message) + "$"):
            row(f"4.5 {written}").measured("x", unit=declared)


def test_a_number_has_its_range():
    assert row("0").number("x", 0, 120) == 0
    for cell in ("-1", "121"):
        with pytest.raises(DataError, match=f"is '{cell}', expected a number from 0 to 120, or nothing"):
            row(cell).number("x", 0, 120)
    with pytest.raises(DataError, match="is '-1', expected a number of 0 or more, or nothing"):
        row("-1").number("x", 0, math.inf)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(["", " mg/l", "mg/L"]))
def test_what_python_writes_of_a_float_is_that_float(number, unit):
    assert row(f"{number!r}{unit}").measured("x", unit="mg/l") == number
    assert row(f"{number:+.17g}").measured("x") == number


@given(st.text(st.characters(codec="utf-8"), min_size=1) | st.text("0123456789.,_-+eE '<>%", min_size=1))
def test_a_number_is_what_ascii_digits_say_or_a_refusal(cell):
    cell = cell.strip()
    try:
        number = row(cell).measured("x")
    except DataError:
        return
    if cell:
        digits = cell.lstrip("<>=\u2264\u2265\u2a7d\u2a7e \t\n").replace("\u2212", "-")
        assert number == float(digits)
        assert set(digits.strip()) <= set("0123456789.+-eE")
    else:
        assert number is None


FLAGS = {
    **dict.fromkeys(("1", "1.0", "1.00", "+1", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "0.0", "-0.0", "false", "False", "FALSE"), False),
    **dict.fromkeys(("", *sorted(MISSING)), None),
}


@pytest.mark.parametrize(("cell", "holds"), FLAGS.items())
def test_a_flag_is_read_as_pandas_and_r_write_it(cell, holds):
    for uncertain in (None, True, False):
        read = row(cell)
        assert read.flag("x", uncertain) is holds
        assert not read.tally


@pytest.mark.parametrize("cell", ["-1", "-1.0", "\u22121"])
def test_an_uncertain_flag_is_what_the_task_says_and_counted(cell):
    for uncertain, said in ((None, "unknown"), (True, "positive"), (False, "negative")):
        read = row(cell)
        assert read.flag("x", uncertain) is uncertain
        assert read.tally == {("x", f"uncertain (-1) is read as {said}"): 1}


@pytest.mark.parametrize("cell", ["2", "0.5", "-2", "yes", "no", "y", "x", "?", "<1", "1 1", "\uff11"])
def test_what_is_no_flag_is_refused(cell):
    with pytest.raises(DataError, match="expected one of 1, 0, true, false, -1"):
        row(cell).flag("x")


def test_a_category_is_matched_exactly_before_its_case_is_forgiven():
    genotype = {name: name for name in ("AA", "Aa", "aa")}
    assert [row(cell).one_of("x", genotype) for cell in ("AA", "Aa", "aa", "")] == ["AA", "Aa", "aa", None]
    with pytest.raises(DataError, match="column 'x': is 'aA', expected one of AA, Aa, aa, or nothing"):
        row("aA").one_of("x", genotype)
    assert row("f").one_of("x", {"F": "female", "M": "male"}) == "female"
    assert row("2.0").one_of("x", {"1": "1", "2": "2"}) == "2"
    with pytest.raises(DataError, match="is 'nan', expected one of F, M"):
        row("nan").one_of("x", {"F": "F", "M": "M"})


@pytest.mark.parametrize("cell", sorted(MISSING))
def test_how_programs_write_nothing_is_no_name_and_no_text(cell):
    for read in (row(cell).name, row(cell).text):
        with pytest.raises(DataError, match=f"is '{cell}', expected a blank cell where there is nothing"):
            read("x")


def test_a_long_number_cut_short_is_no_name():
    for cell in ("1.23457E+18", "1.2345678901234568e+18"):
        with pytest.raises(DataError, match="a long number cut short by a spreadsheet, expected its digits"):
            row(cell).name("x")
    names = ["12", "1E5", "E+1", "", "none"]
    assert [row(cell).name("x") for cell in names] == names


def test_a_refusal_does_not_repeat_a_whole_text():
    with pytest.raises(DataError, match=r"is 'x{100}\.\.\.', expected"):
        row("x" * 5000).measured("x")


@given(st.text() | st.text("'=+-@\t\r1a"))
def test_an_escaped_text_starts_no_formula_and_comes_back(text):
    assert unescaped(escaped(text)) == text
    if text[:1] in ("=", "+", "-", "@", "\t", "\r"):
        assert escaped(text).startswith("'") or row(text.strip()).measured("x") is not None


def test_numbers_are_not_escaped():
    numbers = [-0.5, -3, True, None, "-3.5", "+1e5"]
    assert [escaped(number) for number in numbers] == numbers
    assert escaped("-3.5.1") == "'-3.5.1"
