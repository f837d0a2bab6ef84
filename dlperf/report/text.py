"""What a report says, before it has a form and a language.

A plain string is data: it is escaped, and stands alike in every language. A `Text` is ours: its message is
the English, with **strong** and `code` marked as here and a {place} for each value, and it is the key of
the translation (templates/zh.json).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Union

Inline = Union[str, "Text", "Code", "Link", "Anchor", "Joined"]


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence or a word of the report's own."""

    message: str
    values: tuple[tuple[str, Inline], ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """Words of a log or a file, in a fixed-width face."""

    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """Content that leads to a target: `#anchor`, or a path or address quoted as one."""

    content: Inline
    target: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """Content that a link `#name` leads to; the name is of [a-z0-9-] only."""

    content: Inline
    name: str


@dataclass(frozen=True, slots=True)
class Joined:
    """Parts one after the other; the separator is ours and means nothing in any form."""

    parts: tuple[Inline, ...]
    separator: str


CONTENT = (str, Text, Code, Link, Anchor, Joined)  # what `Inline` stands for


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; `numbers` aligns its column to the right."""

    heading: Inline
    numbers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows of cells under a caption; false without any row, as a report then leaves it out."""

    caption: Inline
    columns: tuple[Column, ...]
    rows: tuple[tuple[Inline, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.rows)


Cells = Mapping[Inline | Column, Inline]  # a row: its cells by heading


def number(heading: Inline) -> Column:
    """The heading of a column of numbers."""
    return Column(heading, numbers=True)


def table_of(caption: Inline, rows: Iterable[Cells]) -> Table:
    """The rows, which have equal headings, as a table; without any row it has no columns either."""
    rows = list(rows)
    headings = rows[0] if rows else ()
    columns = (each if isinstance(each, Column) else Column(each) for each in headings)
    return Table(caption=caption, columns=tuple(columns), rows=tuple(tuple(row.values()) for row in rows))


def say(message: str, **values: Inline | int) -> Text:
    """A message of ours with its values."""
    return Text(message, tuple((n, str(v) if isinstance(v, int) else v) for n, v in values.items()))


def plural(count: int, noun: str) -> Text:
    """`1 run`, `2 runs`."""
    return say(f"{{count}} {noun}" if count == 1 else f"{{count}} {noun}s", count=count)


def joined(parts: Iterable[Inline], separator: str = ", ") -> Joined:
    """The parts in their order."""
    return Joined(tuple(parts), separator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Puts content into one form and one language.

    `escape` makes data safe, `code` sets it in a fixed-width face, `link` and `anchor` take content that is
    written already and a target or a name, `markup` prepares a message before its values are filled in.
    `messages` are the translations.
    """

    escape: Callable[[str], str]
    code: Callable[[str], str]
    link: Callable[[str, str], str]
    anchor: Callable[[str, str], str]
    markup: Callable[[str], str]
    messages: Mapping[str, str]

    def __call__(self, content: Inline) -> str:
        """The content as a piece of the document."""
        if isinstance(content, str):
            return self.escape(content)
        if isinstance(content, Text):
            message = self.markup(self.messages.get(content.message, content.message))
            return message.format(**{name: self(value) for name, value in content.values})
        if isinstance(content, Joined):
            return content.separator.join(map(self, content.parts))
        if isinstance(content, Link):
            return self.link(self(content.content), content.target)
        if isinstance(content, Anchor):
            return self.anchor(self(content.content), content.name)
        return self.code(content.text)


_PLAIN = Writer(
    escape=str,
    code=str,
    link=lambda content, _: content,
    anchor=lambda content, _: content,
    markup=lambda message: message.replace("**", ""),
    messages={},
)


def plain_text(content: Inline) -> str:
    """The content in English without any markup: for charts, and for messages to a terminal."""
    return _PLAIN(content)
