"""Text for GitHub's Markdown. Nothing that comes from a YAML file, a log or a machine can mark anything up.

`Markdown` is markup already; every other string is escaped on its way into a template.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from rich.cells import cell_len

from dlperf.logs.text import plain
from dlperf.report.text import Table, Writer


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


# Nearly every cell of a table: words and numbers with single marks between them that mean nothing there.
_HARMLESS = re.compile(r"(?:[A-Za-z0-9]+(?:[ .,/:_-][A-Za-z0-9]+)*)?")


def escape(text: str) -> Markdown:
    """The text as it will be read: one line, nothing in it marked up."""
    if _HARMLESS.fullmatch(text):
        return Markdown(text)
    escaped = _BACKSLASHED.sub(r"\\\1", plain(text)).translate(_ENTITIES)
    return Markdown(_LINE_START.sub(lambda mark: f"&#{ord(mark[1][0])};{mark[1][1:]}", escaped))


def code(text: str) -> Markdown:
    """The text in a fixed-width face: for words of logs, in which GitHub would take :100: for an emoji."""
    return Markdown(f"<code>{escape(text)}</code>") if text else Markdown()


def link(content: str, target: str) -> Markdown:
    """Content that is markup already, leading to a quoted target."""
    return Markdown(f"[{content}]({target})")


def anchor(content: str, name: str) -> Markdown:
    """Content that is markup already, behind an anchor; GitHub keeps it."""
    return Markdown(f'<a id="{name}"></a>{content}')


def markdown_writer(messages: Mapping[str, str] = MappingProxyType({})) -> Writer:
    """Content as GitHub's Markdown, in the language of the messages."""
    return Writer(
        escape=escape,
        code=code,
        link=link,
        anchor=anchor,
        # A message of ours is Markdown but for what would be HTML.
        markup=lambda message: message.replace("<", "&lt;").replace(">", "&gt;"),
        messages=messages,
    )


def table(content: Table, write: Writer) -> Markdown:
    """A table of GitHub's kind without its caption, padded so that the source can be read too."""
    numbers = [column.numbers for column in content.columns]
    lines = [[write(column.heading) for column in content.columns]]
    lines += [list(map(write, row)) for row in content.rows]
    widths = [max(map(_width, cells)) for cells in zip(*lines, strict=True)]
    rules = ["-" * (width + 1) + "-:"[number] for width, number in zip(widths, numbers, strict=True)]
    heading, *body = (f"| {' | '.join(map(_padded, cells, widths, numbers))} |" for cells in lines)
    return Markdown("\n".join([heading, f"|{'|'.join(rules)}|", *body]))


def _padded(cell: str, width: int, number: bool) -> str:  # noqa: FBT001  by map
    padding = " " * (width - _width(cell))
    return padding + cell if number else cell + padding


def _width(cell: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    return len(cell) if cell.isascii() else cell_len(cell)
