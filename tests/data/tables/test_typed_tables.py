"""Tables whose cells have types: workbooks and Parquet."""

from __future__ import annotations

import contextlib
import datetime
import sys
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.read import read_table


def workbook(path: Path, rows: list[list], title: str = "S", formats: dict[str, str] | None = None) -> Path:
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    for cell, number_format in (formats or {}).items():
        book.active[cell].number_format = number_format
    book.save(path)
    return path


def cells(path: Path) -> list[list[str]]:
    return [list(row.cells.values()) for row in read_table(path, ["id"])]


def rewrite(path: Path, member: str, old: str, new: str) -> Path:
    """The workbook with one of its parts changed, as another program would have written it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old.encode() in parts[member], parts[member]
    parts[member] = parts[member].replace(old.encode(), new.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


SHEET = "xl/worksheets/sheet1.xml"


def test_cells_of_a_workbook_are_what_its_user_sees(tmp_path):
    rows = [
        ["id", "value", "flag", "when", "text"],
        [12, 12.5, True, datetime.datetime(2021, 3, 4), " Zo\u00eb "],
        [12.0, 0.07, False, datetime.datetime(2021, 3, 4, 5, 6), 'two\nlines, "quoted"'],
        [None] * 5,
        [7, -1e-7, None, datetime.time(5, 6), "'=1"],
        ["a", None, None, None, None],
        [None, "", None, None, None],
    ]
    path = workbook(tmp_path / "t.xlsx", rows, formats={"B3": "0.0%", "A5": "00000"})
    found = [(row.source, *row.cells.values()) for row in read_table(path, ["id"])]
    assert found == [
        ("t.xlsx, sheet 'S', row 2", "12", "12.5", "True", "2021-03-04", "Zo\u00eb"),
        ("t.xlsx, sheet 'S', row 3", "12", "7 %", "False", "2021-03-04 05:06:00", 'two\nlines, "quoted"'),
        ("t.xlsx, sheet 'S', row 5", "00007", "-1e-07", "", "05:06:00", "=1"),
        ("t.xlsx, sheet 'S', row 6", "a", "", "", "", ""),
    ]


def test_texts_that_cells_share_are_read(tmp_path):
    """As Excel writes them: cells hold numbers of texts, a text may have several formats."""
    path = workbook(tmp_path / "t.xlsx", [["id", "note"], ["a", "b"]])
    for cell, text, number in (("A1", "id", 0), ("B1", "note", 1), ("A2", "a", 2), ("B2", "b", 3)):
        typed = f'<c r="{cell}" t="inlineStr"><is><t>{text}</t></is></c>'
        rewrite(path, SHEET, typed, f'<c r="{cell}" t="s"><v>{number}</v></c>')
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    override = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
    rewrite(path, "[Content_Types].xml", "</Types>", override)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    runs = "<si><r><t>two </t></r><r><rPr><b/></rPr><t>runs_x000D_</t></r></si>"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(
            "xl/sharedStrings.xml",
            f'<sst xmlns="{main}"><si><t>id</t></si><si><t>note</t></si><si><t>\u5f20</t></si>{runs}</sst>',
        )
    assert cells(path) == [["\u5f20", "two runs"]]


def test_a_percentage_is_a_number_in_percent(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id", "x"], ["a", 0.45]], formats={"B2": "0%"})
    (row,) = read_table(path, ["id"])
    assert row.measured("x", unit="%") == 45
    with pytest.raises(
        DataError, match=r"sheet 'S', row 2, column 'x': is '45 %', expected a number in mg/l"
    ):
        row.measured("x", unit="mg/l")


def test_a_long_number_is_a_number_and_no_name(tmp_path):
    (row,) = read_table(workbook(tmp_path / "t.xlsx", [["id"], [1.5e18]]), ["id"])
    assert row.number("id", 0, 1e20) == 1.5e18
    with pytest.raises(DataError, match="a long number cut short by a spreadsheet"):
        row.name("id")


def test_a_wrong_size_in_the_file_loses_nothing(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id", "x"], ["a", 1], ["b", 2]])
    rewrite(path, SHEET, '<dimension ref="A1:B3"', '<dimension ref="A1"')
    assert cells(path) == [["a", "1"], ["b", "2"]]


def test_control_characters_are_decoded(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id", "note"], ["a", "one_x000D_\ntwo_x0041_"]])
    assert cells(path) == [["a", "one\r\ntwo_x0041_"]]


def test_the_sheet_is_the_filled_one_or_that_of_the_name(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id"], ["a"]])
    book = openpyxl.load_workbook(path)
    book.create_sheet("Sheet2")
    book.save(path)
    assert cells(path) == [["a"]]
    book["Sheet2"]["A1"] = "lookup"
    book.save(path)
    with pytest.raises(DataError, match=r"t\.xlsx: has sheets 'S', 'Sheet2', expected one, or one named 't'"):
        cells(path)
    book["S"].title = "T"
    book.save(path)
    assert cells(path) == [["a"]]


FORMULA = '<c r="B2"><f>1+1</f><v /></c>'
COMPUTED = {
    "a number": ('<c r="B2"><f>1+1</f><v>2</v></c>', "2"),
    "a text": ('<c r="B2" t="str"><f>1+1</f><v>two</v></c>', "two"),
    "an empty text": ('<c r="B2" t="str"><f>1+1</f><v></v></c>', ""),
    "a truth": ('<c r="B2" t="b"><f>1+1</f><v>1</v></c>', "True"),
}


@pytest.mark.parametrize(("cell", "value"), COMPUTED.values(), ids=COMPUTED.keys())
def test_a_formula_is_what_a_spreadsheet_computed(tmp_path, cell, value):
    path = workbook(tmp_path / "t.xlsx", [["id", "x"], ["a", "=1+1"]])
    rewrite(path, SHEET, FORMULA, cell)
    with pytest.raises(DataError, match="is a formula that no spreadsheet has computed"):
        cells(path)  # a library wrote it, and asked for it to be computed
    rewrite(path, "xl/workbook.xml", 'fullCalcOnLoad="1"', "")
    assert cells(path) == [["a", value]]


BAD = {
    "no value": (
        '<c r="B2"><f>1+1</f></c>',
        r"t\.xlsx, sheet 'S', cell B2: is a formula that no spreadsheet",
    ),
    "an empty value": (FORMULA, r"cell B2: is a formula that no spreadsheet has computed"),
    "shared": ('<c r="B2"><f t="shared" si="0" ref="B2:B2">A1</f></c>', "cell B2: is a formula"),
    "an error computed": (
        '<c r="B2" t="e"><f>1/0</f><v>#DIV/0!</v></c>',
        r"cell B2: is the error #DIV/0!, expected",
    ),
    "an error typed": (
        '<c r="B2" t="e"><v>#N/A</v></c>',
        r"cell B2: is the error #N/A, expected a value or nothing",
    ),
}


@pytest.mark.parametrize(("cell", "message"), BAD.values(), ids=BAD.keys())
def test_a_cell_without_a_value_of_its_own_is_refused(tmp_path, cell, message):
    path = workbook(tmp_path / "t.xlsx", [["id", "x"], ["a", "=1+1"]])
    rewrite(path, "xl/workbook.xml", 'fullCalcOnLoad="1"', "")
    rewrite(path, SHEET, FORMULA, cell)
    with pytest.raises(DataError, match=message):
        cells(path)


def test_merged_cells_are_refused(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id", "ward"], ["a", "x"], ["b", None]])
    book = openpyxl.load_workbook(path)
    book["S"].merge_cells("B2:B3")
    book.save(path)
    with pytest.raises(
        DataError, match=r"t\.xlsx, sheet 'S': cells B2:B3 are merged, expected one value to a"
    ):
        cells(path)


def test_a_text_that_excel_may_have_cut_is_refused(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id", "notes"], ["a", "x" * 32_766], ["b", "x" * 32_767]])
    rows = read_table(path, ["id"], texts=["notes"])
    assert len(next(rows).cells["notes"]) == 32_766
    with pytest.raises(
        DataError, match=r"cell B3: is a text of 32,767 .* where Excel cuts.*column notes_file"
    ):
        next(rows)


def test_a_value_beside_the_columns_is_refused(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id", "x"], ["a", 1, None, None], ["b", 2, 3]])
    with pytest.raises(
        DataError, match=r"t\.xlsx, sheet 'S', row 3: has 3 cells, expected 2 as in the header"
    ):
        cells(path)


@pytest.mark.parametrize("damage", [lambda b: b[:-300], lambda b: b"\xd0\xcf\x11\xe0" * 99, lambda b: b""])
def test_a_damaged_or_old_or_encrypted_workbook_is_refused(tmp_path, damage):
    path = workbook(tmp_path / "t.xlsx", [["id"], ["a"]])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"t\.xlsx: cannot be read as a workbook .* without a password"):
        cells(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return workbook(tmp_path_factory.mktemp("small") / "s.xlsx", [["id", "x"], ["a", 1.5], ["b", None]])


@settings(max_examples=100, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_workbook_with_any_byte_changed_is_read_or_refused(small, at, byte):
    content = bytearray(small.read_bytes())
    content[int(at * len(content))] = byte
    path = small.with_name("t.xlsx")
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert cells(path) == [["a", "1.5"], ["b", ""]]


def test_a_workbook_with_broken_xml_is_refused(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["id"], ["a"], ["b"]])
    rewrite(path, SHEET, "</sheetData>", "</sheetDat")
    with pytest.raises(DataError, match=r"t\.xlsx.*: cannot be read as a workbook"):
        cells(path)


def test_columns_of_parquet_are_read_by_type(tmp_path):
    columns = {
        "id": pa.array([2**60 + 1, 7]),
        "float": pa.array([12.0, None]),
        "float32": pa.array([0.1, 2.5], pa.float32()),
        "text": pa.array([" a\n", None]),
        "category": pa.array(["F", "M"]).dictionary_encode(),
        "flag": pa.array([True, None]),
        "date": pa.array([datetime.date(2021, 3, 4), None]),
        "decimal": pa.array([None, "1.50"]).cast(pa.decimal128(5, 2)),
        "nothing": pa.nulls(2),
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    rows = list(read_table(tmp_path / "t.parquet", ["id"]))
    assert [row.source for row in rows] == ["t.parquet, row 1", "t.parquet, row 2"]
    assert rows[0].cells == {
        **{"id": "1152921504606846977", "float": "12", "float32": "0.10000000149011612", "text": "a"},
        **{"category": "F", "flag": "True", "date": "2021-03-04", "decimal": "", "nothing": ""},
    }
    assert rows[1].cells == {
        **{"id": "7", "float": "", "float32": "2.5", "text": "", "category": "M", "flag": "", "date": ""},
        **{"decimal": "1.50", "nothing": ""},
    }


def test_parquet_of_many_rows_and_of_none(tmp_path):
    parquet.write_table(pa.table({"id": list(range(3000))}), tmp_path / "t.parquet", row_group_size=700)
    assert [row.cells["id"] for row in read_table(tmp_path / "t.parquet", ["id"])] == [*map(str, range(3000))]
    parquet.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert cells(tmp_path / "t.parquet") == []


def test_parquet_says_what_csv_says(tmp_path):
    parquet.write_table(pa.table({"id": ["a", None], "x": [float("nan"), 1e300]}), tmp_path / "t.parquet")
    first, second = read_table(tmp_path / "t.parquet", ["id"])
    assert first.flag("x") is None
    with pytest.raises(DataError, match=r"t\.parquet, row 1, column 'x': is 'nan', expected a number"):
        first.measured("x")
    with pytest.raises(DataError, match=r"t\.parquet, row 2, column 'x': is '1e\+300', expected"):
        second.measured("x")
    with pytest.raises(DataError, match=r"t\.parquet: column 'sex' is missing; there are id, x"):
        next(read_table(tmp_path / "t.parquet", ["id", "sex"]))


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, b"\xff"], ids=["list", "structure", "bytes"])
def test_a_column_of_another_kind_is_refused(tmp_path, value):
    parquet.write_table(pa.table({"id": ["a"], "x": [value]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: column 'x' holds .*, expected texts, numbers"):
        cells(tmp_path / "t.parquet")


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"", lambda b: b[:30] + b"\0" * 60 + b[90:]])
def test_a_damaged_parquet_is_refused(tmp_path, damage):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"id": [f"p{i * i}" for i in range(999)]}), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"t\.parquet, after row 0: cannot be read as Parquet"):
        cells(path)


@pytest.mark.parametrize(("package", "suffix"), [("openpyxl", "xlsx"), ("pyarrow", "parquet")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, suffix):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DataError, match=rf"t\.{suffix}: needs {package}, expected it .*robustmdiff\[tables\]"
    ):
        cells(tmp_path / f"t.{suffix}")
