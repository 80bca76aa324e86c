from __future__ import annotations

import gzip

import pytest

from robustmdiff.data.files import find_table, read_header, read_table, write_whole
from robustmdiff.data.patient import DataError


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
    "long row": ("id,sex\na,F,7\n", r"t\.csv:2: has 3 cells, expected 2"),
    "value without a column": ("id,sex,\na,F,7\n", r"t\.csv:2: has '7' in a column without a name"),
    "not UTF-8": (b"id,sex\na,\xff\n", r"t\.csv:\d: cannot be read as a table .*UTF-8"),
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
    with pytest.raises(DataError, match=r"has no t\.csv or t\.csv\.gz$"):
        find_table(tmp_path, "t")
    with pytest.raises(DataError, match=r"no such folder"):
        find_table(tmp_path / "nowhere", "t")


CELLS = {
    "text": ("old", r"t\.csv:2, column 'age': is 'old', expected a number from 0 to 120, or nothing"),
    "comma for a point": ("39,5", "is '39,5'"),
    "not a number": ("nan", "is 'nan'"),
    "infinite": ("inf", "is 'inf'"),
    "beyond the range": ("121", "is '121'"),
}


@pytest.mark.parametrize(("cell", "message"), CELLS.values(), ids=CELLS.keys())
def test_a_cell_that_is_no_such_number_is_refused(tmp_path, cell, message):
    (row,) = read_table(table(tmp_path, f'age\n"{cell}"\n'), ["age"])
    with pytest.raises(DataError, match=message):
        row.number("age", 0, 120)


def test_blank_cells_are_absent_and_choices_ignore_case(tmp_path):
    (row,) = read_table(table(tmp_path, "age,sex,x\n,f,1\n"), ["age"])
    assert row.number("age", 0, 120) is None
    assert row.number("nowhere", 0, 120) is None
    assert row.one_of("sex", {"f": "F", "m": "M"}) == "F"
    with pytest.raises(DataError, match="column 'x': is '1', expected one of f, m, or nothing"):
        row.one_of("x", {"f": "F", "m": "M"})


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "split.json"
    write_whole(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["split.json"]
