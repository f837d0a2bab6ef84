"""A report as a reader sees it: its text, and the tables in it."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt

from dlperf.report.document import Request, build_report
from dlperf.report.render import render
from dlperf.report.text import plain_text

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.report.document import Section
    from dlperf.report.text import Table

Rows = list[dict[str, str]]
PARSER = MarkdownIt("commonmark").enable("table")


def report(*paths: Path, strict: bool = False, **asked: Any) -> str:
    """The text of the report that a `Request` with these values asks for."""
    request = Request(paths=paths, **asked)
    return render(build_report(request, strict=strict), request)


def plain(text: str) -> str:
    """HTML without its tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def _cells(table: str) -> list[list[str]]:
    return [
        [plain(cell) for cell in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    ]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a report in Markdown: rows of cells."""
    return [_cells(table) for table in re.findall(r"<table>(.*?)</table>", PARSER.render(text), re.DOTALL)]


def pages(text: str, form: str = "md") -> dict[str, list[Rows]]:
    """The tables under each heading, as rows by column."""
    found: dict[str, list[Rows]] = {}
    heading = ""
    page = PARSER.render(text) if form == "md" else text
    for title, table in re.findall(r"<h[1-6]>(.*?)</h|<table>(.*?)</table>", page, re.DOTALL):
        if not table:
            heading = plain(title)
            continue
        headings, *rows = _cells(table)
        found.setdefault(heading, []).append([dict(zip(headings, row, strict=True)) for row in rows])
    return found


def by_column(table: Table) -> Rows:
    """The rows of a table that has no form yet."""
    headings = [plain_text(column.heading) for column in table.columns]
    return [dict(zip(headings, map(plain_text, row), strict=True)) for row in table.rows]


def settings(section: Section) -> dict[str, str]:
    """What all cases of a section have in common, by name."""
    return {plain_text(name): plain_text(value) for name, value in section.settings}
