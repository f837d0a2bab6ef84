"""A report read back: its tables and its other lines, as a reader sees them, whether Markdown or HTML."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from html.parser import HTMLParser

Rows = tuple[tuple[str, ...], ...]

_TAG = re.compile(r"<[^>]*>")
_LINK = re.compile(r"(?<!\\)\[((?:[^\]\\]|\\.)*)\]\((?:[^()\s])*\)")
_BACKSLASH = re.compile(r"\\([\\`*{}\[\]~!_])")
_IMAGE = re.compile(r"^\[!\[")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """A table under its heading; the first row holds the columns' headings."""

    heading: str
    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report's tables and the lines around them; its charts are left out."""

    tables: tuple[PageTable, ...]
    lines: tuple[str, ...]


def read_markdown(text: str) -> Page:
    """A report in Markdown; no cell holds a bare `|`."""
    tables: list[PageTable] = []
    lines: list[str] = []
    rows: list[tuple[str, ...]] = []
    heading = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            if not line.startswith("|-"):
                rows.append(tuple(_seen(cell) for cell in line.strip("|").split("|")))
            continue
        if rows:
            tables.append(PageTable(heading=heading, rows=tuple(rows)))
            rows = []
        if line.startswith("#"):
            heading = _seen(line.lstrip("#"))
        if line and not line.startswith("<!--") and not _IMAGE.match(line):
            lines.append(_seen(line))
    return Page(tables=tuple(tables), lines=tuple(lines))


def _seen(text: str) -> str:
    text = _LINK.sub(r"\1", _TAG.sub("", text))
    return html.unescape(_BACKSLASH.sub(r"\1", text)).strip()


def read_html(text: str) -> Page:
    """A report in HTML as dlperf writes it."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return Page(tables=tuple(reader.tables), lines=tuple(reader.lines))


class _Reader(HTMLParser):
    """Collects cells, headings and other text; what draws or styles is passed over."""

    _SILENT = frozenset({"script", "style", "figure", "noscript", "title"})
    _BLOCKS = frozenset({"h1", "h2", "h3", "p", "li", "caption", "blockquote", "dt", "dd"})

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[PageTable] = []
        self.lines: list[str] = []
        self._heading, self._silent = "", 0
        self._rows: list[tuple[str, ...]] = []
        self._cells: list[str] = []
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in self._SILENT:
            self._silent += 1
        if tag in self._BLOCKS or tag in {"td", "th"}:
            self._text = []

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        text = " ".join("".join(self._text).split())
        if tag in self._SILENT:
            self._silent -= 1
        elif tag in {"td", "th"}:
            self._cells.append(text)
        elif tag == "tr":
            self._rows.append(tuple(self._cells))
            self._cells = []
        elif tag == "table":
            self.tables.append(PageTable(heading=self._heading, rows=tuple(self._rows)))
            self._rows = []
        elif tag in self._BLOCKS and text:
            self.lines.append(text)
            self._text = []
            if tag in {"h1", "h2", "h3"}:
                self._heading = text
