"""XML is streamed in its own encoding, each element with its line, and nothing outside the file is read."""

from __future__ import annotations

import gzip
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustmdiff.knowledge import OntologyError
from robustmdiff.knowledge import elements as elements_module
from robustmdiff.knowledge.elements import CHUNK, elements


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "some.xml"
    path.write_bytes(text.encode(encoding))
    return path


def test_elements_come_with_line_text_and_children(tmp_path):
    path = write(
        tmp_path, "<r>\n<d><n lang='en'> one &lt;i&gt; </n></d><x/>\n<d>\n<l><n>a</n><n>b</n></l></d></r>"
    )
    first, second = elements(path, "d")
    assert (first.line, first.text_at("n"), second.line) == (2, "one <i>", 3)
    assert [(n.line, n.text) for n in second.all("l/n")] == [(4, "a"), (4, "b")]
    assert second.text_at("l/none") == ""


def test_an_element_inside_one_of_its_kind_belongs_to_it(tmp_path):
    (outer,) = elements(write(tmp_path, "<r><d><d>in</d></d></r>"), "d")
    assert outer.text_at("d") == "in"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    st.lists(
        st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("éèßÿ"), max_size=9)
    ),
    st.sampled_from(["ISO-8859-1", "UTF-8"]),
    st.sampled_from([0, CHUNK - 3, 2 * CHUNK]),
    st.booleans(),
)
def test_text_comes_back_in_either_encoding(tmp_path, texts, encoding, padding, packed):
    """Also where an element lies across two chunks of the file."""
    body = f"<!--{'x' * padding}-->" + "".join(f"<d>{escape(text)}</d>\n" for text in texts)
    path = write(tmp_path, f'<?xml version="1.0" encoding="{encoding}"?>\n<r>{body}</r>', encoding)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    read = list(elements(path, "d"))
    assert [element.text for element in read] == texts
    assert [element.line for element in read] == list(range(2, 2 + len(texts)))


def test_what_the_parser_holds_back_comes_at_the_end(tmp_path, monkeypatch):
    """Newer versions of expat read a long token again only when much more has come, or at the end."""

    class Deferring:
        def __init__(self) -> None:
            self.__dict__["parser"], self.__dict__["held"] = create(), b""

        def __getattr__(self, name: str) -> object:
            return getattr(self.parser, name)

        def __setattr__(self, name: str, value: object) -> None:
            setattr(self.parser, name, value)

        def Parse(self, data: bytes, final: bool = False) -> None:
            self.__dict__["held"] += data
            if final:
                self.parser.Parse(self.held, True)

    create = elements_module.expat.ParserCreate
    monkeypatch.setattr(elements_module.expat, "ParserCreate", Deferring)
    path = write(tmp_path, "<r><d>one</d><d>two</d></r>", "UTF-8")
    assert [element.text for element in elements(path, "d")] == ["one", "two"]


ENTITIES = '<!DOCTYPE r [<!ENTITY a "{}">{}]>\n<r><d>&{};</d></r>'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param("<r>\n<d>a</r>", 2, r"broken XML \(mismatched tag\)", id="unclosed"),
        pytest.param("<r>\n<d>a</d>\n", 3, r"broken XML \(no element found\)", id="cut-short"),
        pytest.param("", 1, r"broken XML \(no element found\)", id="empty"),
        pytest.param("<r>\n<d>&x;</d></r>", 2, "undefined entity", id="undefined-entity"),
        pytest.param('<?xml version="1.0" encoding="klingon"?>\n<r/>', 1, "broken XML", id="encoding"),
        pytest.param(
            '<?xml version="1.0"?>\n' + ENTITIES.format("x", '<!ENTITY b "&a;&a;&a;">', "b"),
            2,
            "a document type declaration",
            id="entities",
        ),
        pytest.param(
            '<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/hostname">]>\n<r><d>&a;</d></r>',
            1,
            "a document type declaration",
            id="an-entity-outside-the-file",
        ),
    ],
)
def test_what_is_refused_names_its_line(tmp_path, text, line, message):
    with pytest.raises(OntologyError, match=message) as caught:
        list(elements(write(tmp_path, text), "d"))
    assert caught.value.line == line


def test_bytes_of_another_encoding_are_refused(tmp_path):
    path = write(tmp_path, '<?xml version="1.0" encoding="UTF-8"?>\n<r>\n<d>Ménière</d></r>', "latin-1")
    with pytest.raises(OntologyError, match=r"some\.xml:3: broken XML"):
        list(elements(path, "d"))


def test_a_truncated_gz_says_so(tmp_path):
    packed = gzip.compress(
        ("<r>" + "".join(f"<d>{i * 7919 % 9973}</d>\n" for i in range(5000)) + "</r>").encode()
    )
    path = tmp_path / "some.xml.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(OntologyError, match="the compressed data ends early"):
        list(elements(path, "d"))
