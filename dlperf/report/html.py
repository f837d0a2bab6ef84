"""Content as HTML. Nothing that comes from a YAML file, a log or a machine can mark anything up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from markupsafe import Markup
from markupsafe import escape as escaped

from dlperf.logs.text import plain
from dlperf.report.text import Column, Inline, Table, Writer

_STRONG = re.compile(r"\*\*(.+?)\*\*")
_CODE = re.compile(r"`(.+?)`")


def html_writer(messages: Mapping[str, str] = MappingProxyType({})) -> Writer:
    """Content as HTML, in the language of the messages."""
    return Writer(
        escape=escape,
        code=lambda text: f"<code>{escape(text)}</code>" if text else "",
        link=lambda content, target: f'<a href="{escape(target)}">{content}</a>',
        anchor=lambda content, name: f'<span id="{escape(name)}">{content}</span>',
        markup=_markup,
        messages=messages,
    )


def escape(text: str) -> str:
    """The text as it will be read, on one line."""
    return str(escaped(plain(text)))


def _markup(message: str) -> str:
    return _CODE.sub(r"<code>\1</code>", _STRONG.sub(r"<strong>\1</strong>", str(escaped(message))))


def table(content: Table, write: Writer) -> Markup:
    """A table with its caption; the page's program makes it sortable and filterable."""
    caption, heading = write(content.caption), "".join(_heading(column, write) for column in content.columns)
    numbers = [column.numbers for column in content.columns]
    rows = "\n".join(f"<tr>{_cells(row, numbers, write)}</tr>" for row in content.rows)
    return Markup(  # noqa: S704  every piece went through the writer
        f'<div class="table" tabindex="0" role="region" aria-label="{_without_tags(caption)}">\n'
        f"<table>\n<caption>{caption}</caption>\n"
        f"<thead>\n<tr>{heading}</tr>\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _heading(column: Column, write: Writer) -> str:
    kind = ' class="number"' if column.numbers else ""
    # device_num_per_node may take several lines; a heading holds no link whose target this would change.
    heading = write(column.heading).replace("_", "_<wbr>")
    return f'<th scope="col"{kind}>{heading}</th>'


def _cells(row: tuple[Inline, ...], numbers: list[bool], write: Writer) -> str:
    return "".join(
        f'<td class="number">{write(cell)}</td>' if number else f"<td>{write(cell)}</td>"
        for cell, number in zip(row, numbers, strict=True)
    )


def _without_tags(text: str) -> str:
    return re.sub(r"<[^>]*>", "", text)
