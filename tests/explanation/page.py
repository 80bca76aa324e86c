"""A reader of a patient's page."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a reader of the HTML needs to know: tags with attributes, nesting, text by class, what each table
    lies in."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.report, self.text, self.boxes = [], [], "", "", []
        self.feed(html)
        assert self.open == [], "unclosed tags"

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.boxes.append(self.open[-1])
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs).get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not any(tag in ("style", "title") for tag, _ in self.open):
            self.text += data
        if ("p", "report") in self.open:
            self.report += data

    @property
    def shown(self):
        return " ".join(self.text.split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]
