"""What commands print: lines, messages, tables, JSON.

Text from logs, results and nodes may hold escape codes, with which it could change what a terminal shows. So
everything that a command prints goes through here, where control characters are made visible.
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import click
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dlperf.files import write_atomically

# Where the output is no terminal, as wide as its cells are.
_FILE_WIDTH, _NO_LIMIT = 400, 100_000
# Columns whose text wraps, and where that begins at the earliest.
_SENTENCES, _SENTENCE_WIDTH = ("reason", "why", "evidence"), 30
# All controls but tab and line feed, marks that change the direction of text, halves of characters.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Styled(str):
    """Text with colours of our own, whose other content is visible already."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""The text with its control characters as escapes, such as `\x1b`."""
    if isinstance(text, Styled):
        return text
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def echo(*lines: str) -> None:
    """Print lines on standard output."""
    for line in lines:
        click.echo(visible(line))


def say(text: str) -> None:
    """Print a message on standard error."""
    click.echo(visible(text), err=True)


def write_data(text: str) -> None:
    """Print a document or data for programs: as it is, but with visible controls on a terminal."""
    click.echo(visible(text) if sys.stdout.isatty() else text, nl=False)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that a command was asked for; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


class VisibleStream:
    """Standard output for a writer of text; controls are made visible."""

    def write(self, text: str) -> int:
        """Print the text."""
        return sys.stdout.write(visible(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """Print lines, which have their ends."""
        sys.stdout.writelines(map(visible, lines))


def say_in_a_signal_handler(text: str) -> None:
    """Print a message from a handler that may have interrupted a write to sys.stderr."""
    os.write(2, f"\ndlperf: {visible(text)}\n".encode())


def print_json(content: object) -> None:
    """Print JSON for programs and people."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    click.echo(_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[str] = (),
    styles: Iterable[str | None] | None = None,
) -> Styled:
    """A table as text, without the columns that are empty.

    `right` holds the headings of columns aligned right, `styles` one style per row. On a narrow terminal
    reasons wrap; where that is not enough, each row becomes a block of lines. No cell is ever cut.
    """
    whole = [[visible(cell).replace("\n", "\\n") for cell in row] for row in rows]
    kept = [place for place in range(len(headings)) if any(row[place] for row in whole)]
    headings, cells = [headings[place] for place in kept], [[row[place] for place in kept] for row in whole]
    of_rows = list(styles or [None] * len(cells))
    console = Console(file=sys.stdout)
    if not console.is_terminal or _width(headings, cells) <= console.width:
        return _grid(headings, cells, right=right, styles=of_rows)
    if len(cells) > 1:
        differ = len(set(map(tuple, cells))) > 1
        shared, headings, cells = fold(headings, cells, headings if differ else headings[1:])
    else:
        shared = ""
    fits = _width(headings, cells) <= console.width
    shown = _grid(headings, cells, right=right, styles=of_rows) if fits else _blocks(headings, cells, of_rows)
    return Styled(f"{wrapped(f'every row: {shared}')}\n\n{shown}") if shared else shown


def wrapped(text: str, *, indent: int = 0) -> str:
    """A long line in lines of a terminal's width, cut between words, those after the first with an indent.

    It stays one line where the output is no terminal, and where a word has no room: a terminal that cuts it
    copies it in one piece.
    """
    console = Console(file=sys.stdout)
    widest = max(map(cell_len, text.split()), default=0)
    if not console.is_terminal or widest > console.width - indent or "\n" in text:
        return text
    rest = " " * indent
    return textwrap.fill(
        text, console.width, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _width(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The least width of a table."""
    widths = _widths(headings, rows)
    return sum(widths) + 2 * (len(widths) - 1)


def _grid(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str],
    styles: Sequence[str | None],
) -> Styled:
    content = Table(box=None, pad_edge=False, header_style="bold")
    for heading, width in zip(headings, _widths(headings, rows), strict=True):
        content.add_column(heading, justify="right" if heading in right else "left", width=width)
    for row, style in zip(rows, styles, strict=True):
        # Text, not markup: a reason may hold brackets.
        styled = (Text(cell, style=style_of(h, cell)) for h, cell in zip(headings, row, strict=True))
        content.add_row(*styled, style=style)
    return rendered(content)


def _blocks(headings: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str | None]) -> Styled:
    """Each row as its first cell and, below it, a line per other cell."""
    width = Console(file=sys.stdout).width
    console = Console(file=sys.stdout, width=_NO_LIMIT)
    indent = max(map(cell_len, headings[1:]), default=0)
    rest = " " * (indent + 4)
    with console.capture() as capture:
        for (name, *others), style in zip(rows, styles, strict=True):
            console.print(Text(name, style="bold"), style=style or "")
            for heading, cell in zip(headings[1:], others, strict=True):
                room = max(_SENTENCE_WIDTH, width - len(rest))
                lines = textwrap.wrap(cell, room, break_long_words=False, break_on_hyphens=False)
                if lines:
                    text = Text(f"\n{rest}".join(lines), style=style_of(heading, cell))
                    begin = Text(f"  {heading:<{indent}}  ", style="dim")
                    console.print(begin.append_text(text), style=style or "")
            console.print()
    return Styled(capture.get().strip("\n"))


# What a status means to a reader; others failed.
_STATUS_STYLES = {
    **dict.fromkeys(("ok", "runnable", "found"), "green"),
    **dict.fromkeys(("warning", "disturbed"), "yellow"),
    **dict.fromkeys(("unsupported", "excluded", "unavailable", "not_measured"), "dim"),
}


def style_of(heading: str, cell: str) -> str:
    """The colour of a cell: a status tells good from bad."""
    return _STATUS_STYLES.get(cell, "red") if heading == "status" and cell else ""


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column: on a terminal sentences share what the others leave."""
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    console = Console(file=sys.stdout)
    sentences = [place for place, heading in enumerate(headings) if heading in _SENTENCES]
    if console.is_terminal and sentences:
        others = sum(width for place, width in enumerate(widths) if place not in sentences)
        share = max(_SENTENCE_WIDTH, (console.width - others - 2 * (len(widths) - 1)) // len(sentences))
        for place in sentences:
            longest_word = max((cell_len(word) for row in rows for word in row[place].split()), default=0)
            widths[place] = max(longest_word, min(widths[place], share))
    return widths


def fold(
    headings: Sequence[str], rows: Sequence[Sequence[str]], foldable: Collection[str]
) -> tuple[str, list[str], list[list[str]]]:
    """Columns that have one value in all rows, as a line above the table; the other headings and cells."""
    same = [
        place
        for place, heading in enumerate(headings)
        if heading in foldable and len({row[place] for row in rows}) == 1 and rows[0][place]
    ]
    kept = [place for place in range(len(headings)) if place not in same]
    line = ", ".join(f"{headings[place]} {rows[0][place]}" for place in same)
    return line, [headings[place] for place in kept], [[row[place] for place in kept] for row in rows]


def rendered(content: Table) -> Styled:
    """The table coloured and as wide as a terminal or, where that is more, as its columns need."""
    console = Console(file=sys.stdout)
    needed = Measurement.get(console, console.options.update(max_width=_NO_LIMIT), content).minimum
    console = Console(
        file=sys.stdout, width=max(console.width if console.is_terminal else _FILE_WIDTH, needed)
    )
    with console.capture() as capture:
        console.print(content)
    return Styled("\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip())
