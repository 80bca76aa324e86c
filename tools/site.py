"""What the site shows in another way than the pages and docstrings are written (see mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A hook of MkDocs. Files outside docs/ are not on the site, and fences there have a language only."""
    depth = page.file.src_uri.count("/")

    def outside(link: re.Match[str]) -> str:
        up, path = link[2], link[3]
        return f"`{path}`" if up.count("../") > depth else link[0]

    markdown = markdown.replace("```python fragment", "```python")
    return re.sub(r"\[([^\]]*)\]\(((?:\.\./)+)([^)]*)\)", outside, markdown)


class AsAligned(griffe.Extension):
    """The first paragraph of a docstring is prose; the rest is shown as it was aligned."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        first, _, rest = obj.docstring.value.partition("\n\n")
        if rest.strip():
            obj.docstring.value = f"{first}\n\n```text\n{rest}\n```"
        obj.docstring.value = obj.docstring.value.replace("][", r"]\[")  # no link
