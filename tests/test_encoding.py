"""Text is UTF-8 in every file that is read or written, whatever the machine's own encoding."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for place in ("robustmdiff", "kernels", "tools", "benchmarks", "examples", "tests", "setup.py")
    for path in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
)
TEXT = ("read_text", "write_text", "open", "fdopen", "NamedTemporaryFile", "TextIOWrapper")
OTHERS = ("Image", "np.lib.format", "os", "memmap", "tarfile")  # whose `open` is of no text file


def unsaid(source: str) -> list[int]:
    """Lines of calls that open a file as text and leave its encoding to the machine."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        if method not in TEXT or (method == "open" and owner in OTHERS):
            continue
        given = {keyword.arg for keyword in node.keywords}
        modes = (
            []
            if method.endswith("_text")
            else [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        )
        binary = any(isinstance(m, ast.Constant) and "b" in str(m.value) for m in modes)
        default = method == "NamedTemporaryFile" and len(node.args) == 0 and "mode" not in given  # "w+b"
        if "encoding" not in given and not binary and not default:
            lines.append(node.lineno)
    return lines


def test_a_call_without_an_encoding_is_found():
    assert unsaid("open(p)\np.open()\np.read_text()\np.write_text('b')\nopen(p, 'a')") == [1, 2, 3, 4, 5]
    assert unsaid("open(p, 'rb')\np.open(mode='wb')\np.read_text(encoding='utf-8')\nImage.open(p)") == []


def test_every_text_file_is_read_and_written_as_utf_8():
    found = {path.relative_to(ROOT): unsaid(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {str(path): lines for path, lines in found.items() if lines} == {}
    assert len(found) > 100
