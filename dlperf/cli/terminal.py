"""What commands print: tables, JSON, messages."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough that no cell is ever cut where the output is no terminal.
_FILE_WIDTH = 400


def say(text: str) -> None:
    """Print a message on standard error."""
    click.echo(text, err=True)


def say_in_a_signal_handler(text: str) -> None:
    """Print a message from a handler that may have interrupted a write to sys.stderr."""
    os.write(2, f"\ndlperf: {text}\n".encode())


def print_json(content: object) -> None:
    """Print JSON for programs and people."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def table(
    headings: Sequence[str],
    rows: Iterable[Iterable[str]],
    *,
    right: Collection[str] = (),
    styles: Iterable[str | None] | None = None,
) -> str:
    """A table as text, without blanks or an end of line behind it.

    `right` holds the headings of columns aligned right, `styles` one style per row.
    """
    content = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        content.add_column(heading, justify="right" if heading in right else "left")
    cells = [list(map(Text, row)) for row in rows]  # no markup: a reason may hold brackets
    for row, style in zip(cells, styles or [None] * len(cells), strict=True):
        content.add_row(*row, style=style)
    return rendered(content)


def rendered(content: Table) -> str:
    """The table coloured and fitted on a terminal, plain and as wide as it needs elsewhere."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_FILE_WIDTH)
    with console.capture() as capture:
        console.print(content)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip()
