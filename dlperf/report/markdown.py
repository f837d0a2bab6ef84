"""Text for GitHub's Markdown. Nothing that comes from a YAML file, a log or a machine can mark anything up.

`Markdown` is text that is markup already; every other string is escaped on its way into a template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.results.logfiles import plain

if TYPE_CHECKING:
    from collections.abc import Sequence


class Markdown(str):
    """Markup that may go into a document as it is."""

    __slots__ = ()


# Where a backslash is not enough: `|` ends a table cell even behind one in some renderers, HTML is HTML, and
# GitHub reads $...$ as a formula.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "<span>$</span>"})
# An underscore within a word marks up nothing.
_BACKSLASHED = re.compile(r"([\\`*{}\[\]~!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
# These mark up only where a line begins.
_LINE_START = re.compile(r"^(#|[-+=](?=[\s=-]|$)|\d+(?=[.)](?:\s|$)))")


def escape(text: str) -> Markdown:
    """The text as it will be read: one line, nothing in it marked up."""
    escaped = _BACKSLASHED.sub(r"\\\1", plain(text)).translate(_ENTITIES)
    return Markdown(_LINE_START.sub(_escape_line_start, escaped))


def _escape_line_start(match: re.Match[str]) -> str:
    mark = match[1]
    return f"&#{ord(mark[0])};{mark[1:]}"


def fill(text: str, **values: object) -> Markdown:
    """Our own markup with values in its {places}, each escaped."""
    return Markdown(text.format(**{name: escape(str(value)) for name, value in values.items()}))


def code(text: str) -> Markdown:
    """The text in a fixed-width face: for words of logs, in which GitHub would take :100: for an emoji."""
    return Markdown(f"<code>{escape(text)}</code>") if text else Markdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A heading, and whether the column holds numbers."""

    heading: str
    numbers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows of cells; a cell that is no Markdown is escaped."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def table(content: Table) -> Markdown:
    """A table of GitHub's kind, its columns padded so that the source can be read too."""
    heading = tuple(str(_cell(column.heading)) for column in content.columns)
    body = [tuple(str(_cell(cell)) for cell in row) for row in content.rows]
    widths = [max(len(row[place]) for row in (heading, *body)) for place in range(len(heading))]
    lines = [
        _line(heading, widths, content.columns),
        "|"
        + "|".join(_rule(width, column) for width, column in zip(widths, content.columns, strict=True))
        + "|",
        *(_line(row, widths, content.columns) for row in body),
    ]
    return Markdown("\n".join(lines))


def _cell(text: str) -> Markdown:
    return text if isinstance(text, Markdown) else escape(text)


def _rule(width: int, column: Column) -> str:
    return "-" * (width + 1) + (":" if column.numbers else "-")


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    padded = (
        cell.rjust(width) if column.numbers else cell.ljust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    )
    return "| " + " | ".join(padded) + " |"
