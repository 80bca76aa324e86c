"""Elements of an XML file, one after another, each with the line on which it begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from robustmdiff.knowledge.lines import DAMAGE, OntologyError, damaged, unpacked

CHUNK = 1 << 16  # bytes


class Element:
    """An element: its tag, the line of its start, its own text, and its children in order."""

    __slots__ = ("children", "line", "tag", "text")

    def __init__(self, tag: str, line: int) -> None:
        self.tag, self.line, self.text = tag, line, ""
        self.children: list[Element] = []

    def all(self, path: str) -> list[Element]:
        """Every descendant that "tag/tag/..." leads to."""
        found = [self]
        for tag in path.split("/"):
            found = [child for element in found for child in element.children if child.tag == tag]
        return found

    def text_at(self, path: str) -> str:
        """The text of the first element there, without the blanks around it; "" if there is none."""
        return next((element.text.strip() for element in self.all(path)), "")


def elements(path: str | Path, tag: str) -> Iterator[Element]:
    """Stream the elements `tag` of a file, plain or gzipped, in the encoding that it declares.

    One inside another belongs to the outer one. A document type declaration is refused: no source
    here has one, and entities (which it could define) are how XML files grow in memory or reach for
    other files. Raises OntologyError, with the line, for that and for broken XML.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    open_: list[Element] = []
    done: list[Element] = []

    def start(name: str, _: dict[str, str]) -> None:
        if open_ or name == tag:
            element = Element(name, parser.CurrentLineNumber)
            if open_:
                open_[-1].children.append(element)
            open_.append(element)

    def end(_: str) -> None:
        if open_:
            element = open_.pop()
            if not open_:
                done.append(element)

    def text(data: str) -> None:
        if open_:
            open_[-1].text += data

    def doctype(*_: object) -> None:
        raise OntologyError(path, parser.CurrentLineNumber, "a document type declaration, which is not read")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    with unpacked(path) as file:
        try:
            while chunk := file.read(CHUNK):
                parser.Parse(chunk)
                yield from done
                done.clear()
            parser.Parse(b"", True)
            yield from done  # expat may keep what it was given for the end
        except expat.ExpatError as error:
            problem = f"broken XML ({expat.ErrorString(error.code)})"
            raise OntologyError(path, error.lineno, problem) from error
        except DAMAGE as error:
            raise damaged(path, parser.CurrentLineNumber, error) from error
        except OntologyError:
            raise
        except (LookupError, ValueError) as error:  # an encoding that is not known or not read
            raise OntologyError(path, parser.CurrentLineNumber, f"broken XML ({error})") from error
