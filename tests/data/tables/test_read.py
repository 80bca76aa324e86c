from __future__ import annotations

import gzip
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.read import find_table, read_header, read_table, write_table


def table(tmp_path, content: str | bytes):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_are_named_by_the_line_they_start_on(tmp_path):
    path = table(tmp_path, '\ufeffid, note ,\n a ,"two\nlines",\n\n,,\nb,"x, y",\n')
    rows = list(read_table(path, ["id"]))
    assert [(row.source, row.cells["id"], row.cells["note"]) for row in rows] == [
        ("t.csv:2", "a", "two\nlines"),
        ("t.csv:6", "b", "x, y"),
    ]
    assert read_header(path) == ["id", "note", ""]


def test_gz_and_renamed_columns(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"Id,wbc count\np,4\n"))
    (row,) = read_table(path, ["id", "wbc"], renamed={"Id": "id", "wbc count": "wbc"})
    assert dict(row.cells) == {"id": "p", "wbc": "4"}
    assert find_table(tmp_path, "t") == path


BROKEN = {
    "missing column": (
        "id,sexx\n",
        r"t\.csv:1: column 'sex' is missing \(is it 'sexx'\?\); there are id, sexx",
    ),
    "empty file": ("", r"t\.csv:1: column 'id' is missing"),
    "unknown column": ("id,sex,agee\n", r"t\.csv:1: column 'agee' is unknown \(did you mean 'age'\?\)"),
    "column twice": ("id,sex,id\n", r"t\.csv:1: columns 'id' occur twice"),
    "short row": ("id,sex\na,F\nb\n", r"t\.csv:3: has 1 cells, expected 2"),
    "long row": (
        "id,sex\na,F,7\n",
        r"t\.csv:2: has 3 cells, expected 2 as in the header .a cell with a comma",
    ),
    "value without a column": ("id,sex,\na,F,7\n", r"t\.csv:2: has '7' in a column without a name"),
    "semicolons": ("id;sex\na;F\n", r"t\.csv:1: columns stand between semicolons, expected commas"),
    "tabs": ("id\tsex\na\tF\n", r"t\.csv:1: columns stand between tabs"),
    "Excel's first line": ("sep=;\nid;sex\n", r"t\.csv:1: columns stand between semicolons"),
    "Latin-1": (
        b"id,sex\n" + b"a,F\n" * 5000 + "é,F\n".encode("latin-1"),
        r"t\.csv:5002: .*\(byte 0xe9 after '' is not UTF-8; in Latin-1 it is 'é'\), expected UTF-8",
    ),
    "Latin-1 in a cell of several lines": (
        'id,sex\n"a\nb\n\xfc","F"\n'.encode("latin-1"),
        r"t\.csv:4: .*byte 0xfc after '' is not UTF-8; in Latin-1 it is 'ü'",
    ),
    "Latin-1 after CR alone": (b"id,sex\ra,F\rb\xe9,F\r", r"t\.csv:3: .*byte 0xe9 after 'b'"),
    "UTF-16 with a mark": ("id,sex\na,F\n".encode("utf-16"), r"t\.csv:1: .*\(it is UTF-16\), expected UTF-8"),
    "UTF-16 without": ("id,sex\na,F\n".encode("utf-16-le"), r"t\.csv:1: .*NUL byte, as UTF-16 does"),
    "NUL": (b"id,sex\na,F\nb,\0\n", r"t\.csv:3: .*NUL byte"),
    "columns twice, spelled otherwise": ("id,sex,s\u200bex\n", r"t\.csv:1: columns 'sex' occur twice"),
    "a bad line after a quoted one": ('id,sex\n"a\n\nb",F\nc\n', r"t\.csv:5: has 1 cells, expected 2"),
    "a long cell": (
        "id,sex\na,F\n" + "b" * 140_000 + ",F\n",
        r"t\.csv:3: has a cell of more than 131,072 char",
    ),
    "open quote": ('id,sex\na,"F\n', r"t\.csv:2: cannot be read as a table"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_table_is_refused_by_row(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        list(read_table(table(tmp_path, content), ["id", "sex"], allowed=["id", "sex", "age"]))


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:20] + b"\0\xff\0" + b[23:], lambda b: b[2:]]
)
def test_a_damaged_gz_is_refused(tmp_path, damage):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(damage(gzip.compress(b"id\n" + b"".join(b"p%d\n" % i for i in range(500)))))
    with pytest.raises(DataError, match=r"t\.csv\.gz:\d+: cannot be read as a table"):
        list(read_table(path, ["id"]))


def test_an_absent_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no t\.csv, t\.csv\.gz, t\.xlsx or t\.parquet$"):
        find_table(tmp_path, "t")
    with pytest.raises(DataError, match=r"no such folder"):
        find_table(tmp_path / "nowhere", "t")


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")), min_size=1))
def test_what_is_written_is_read_back(tmp_path_factory, texts):
    texts = [f"{text.strip()}." for text in texts]  # no blanks around it, and no blank cell
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write_table(path, ["a", "b"], [{"a": text, "b": i} for i, text in enumerate(texts)])
    assert [(row.cells["a"], row.number("b", 0, 1e9)) for row in read_table(path, ["a", "b"])] == [
        (text, i) for i, text in enumerate(texts)
    ]


def test_the_table_is_the_only_one(tmp_path):
    (tmp_path / "T.tsv").write_text("id\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"has no t\.csv, .* \(there is T\.tsv\)"):
        find_table(tmp_path, "t")
    for name in ("t.xlsx", "t.csv.gz"):
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"has t\.csv\.gz and t\.xlsx, expected one of them"):
        find_table(tmp_path, "t")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_every_way_to_end_a_line(tmp_path, end):
    path = table(tmp_path, end.join(("id,note", 'a,"x', 'y"', "", "b,z", "", "")))
    assert [(row.source, *row.cells.values()) for row in read_table(path, ["id"])] == [
        ("t.csv:2", "a", f"x{end}y"),
        ("t.csv:5", "b", "z"),
    ]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"id\na\n" + b"x" * 2**25))
    with pytest.raises(DataError, match=r"t\.csv\.gz:3: .*a line of 16,777,216 characters or more"):
        list(read_table(path, ["id"]))


def test_a_header_alone_is_a_table_of_no_rows(tmp_path):
    assert list(read_table(table(tmp_path, "id,sex"), ["id"])) == []


def test_a_column_may_be_spelled_in_any_unicode_form(tmp_path):
    path = table(tmp_path, "id,Gro\u0308\u00dfe,\u00a0alter\u200b\np,180,61\n")
    (row,) = read_table(path, ["id"], allowed=["id", "Gr\u00f6\u00dfe", "alter"])
    assert dict(row.cells) == {"id": "p", "Gr\u00f6\u00dfe": "180", "alter": "61"}


def test_a_long_text_is_told_where_it_may_go(tmp_path):
    path = table(tmp_path, 'id,notes\na,"' + "word " * 30_000 + '"\n')
    with pytest.raises(DataError, match=r"t\.csv:2: .*\(a long text goes into a file.* column notes_file\)"):
        list(read_table(path, ["id", "notes"], texts=["notes"]))


def test_what_is_read_as_less_than_it_says_is_counted_once_a_column(tmp_path):
    path = table(tmp_path, "id,crp,ldh,x\na,<0.5,,-1\nb,>100,<2,-1.0\nc,3,,0\n")
    next(read_table(path, ["id"])).measured("crp")  # not read to its end: not counted
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = [
            (row.measured("crp"), row.measured("ldh"), row.flag("x")) for row in read_table(path, ["id"])
        ]
    assert found == [(0.5, None, None), (100, 2, None), (3, None, False)]
    assert [str(warning.message) for warning in warned] == [
        "t.csv, column 'crp': cells where a bound (such as <0.5) is read as its number: 2",
        "t.csv, column 'x': cells where uncertain (-1) is read as unknown: 2",
        "t.csv, column 'ldh': cells where a bound (such as <0.5) is read as its number: 1",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row.measured("crp") for row in read_table(table(tmp_path, "id,crp\na,4\n"), ["id"])] == [4]


def test_no_spreadsheet_finds_a_formula_in_what_is_written(tmp_path):
    texts = [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-x",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "'=1",
        "''-2-3",
        "＝1",
        "a=1",
        "'tis",
    ]
    rows = [{"id": text, "p": -0.5, "n": -3, "holds": True} for text in texts]
    write_table(tmp_path / "t.csv", ["id", "p", "n", "holds"], rows)
    header, *lines = (tmp_path / "t.csv").read_bytes().decode().split("\r\n")
    assert header == "id,p,n,holds"
    assert all(line.lstrip('"')[0] in "'a" for line in lines if line)
    assert all(line.endswith(",-0.5,-3,True") for line in lines if line)  # numbers stay numbers
    assert [row.cells["id"] for row in read_table(tmp_path / "t.csv", ["id"])] == texts
