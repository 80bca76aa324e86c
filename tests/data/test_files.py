from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.data.files import file_name
from robustmdiff.whole import write_whole


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


AWKWARD = (
    *("a/b", "a_b", "a\\b", "a b", "a.b", "A_b", "..", ".", "", "con", "CON", "nul.txt", "a.", "-a", "~"),
    *("\u00e9", "e\u0301", "x" * 300, "x" * 301, "a:b", "a\0b", "\ud800", "a~0123456789abcdef", "p1", "P1"),
)


def test_awkward_ids_are_files_of_their_own(tmp_path):
    for id in AWKWARD:
        write_whole(tmp_path / f"{file_name(id)}.html", id.encode("utf-8", "surrogatepass"))
    found = sorted(path.read_bytes().decode("utf-8", "surrogatepass") for path in tmp_path.iterdir())
    assert found == sorted(AWKWARD)
    assert [file_name(id) for id in ("p1", "a_b", "patient-0012.3")] == ["p1", "a_b", "patient-0012.3"]


@given(st.lists(st.one_of(st.text(), st.text("aA/_.~")), unique=True))
def test_different_ids_have_different_names_where_case_is_ignored_too(ids):
    names = [file_name(id) for id in ids]
    assert len({name.lower() for name in names}) == len(ids)
    assert names == [file_name(id) for id in ids]
    for name in names:
        assert name.isascii()
        assert 0 < len(name) <= 100
        assert not set(name) & set('/\\:*?"<>|\0 ')
        assert name[0] not in ".-"
        assert name[-1] != "."
