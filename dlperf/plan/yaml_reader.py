"""YAML text -> Document, safely.

Scalars follow YAML 1.2's core schema: `true` and `false` are the only booleans (`yes`, `no`, `on` are text),
`1e-3` is a number, `1:30` and dates are text. Sequences become tuples. Duplicate keys, custom tags and merge
keys (`<<`) are problems; aliases are followed up to a bound.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from yaml import MappingNode, Node, ScalarNode, SequenceNode
from yaml.composer import Composer
from yaml.error import MarkedYAMLError
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from dlperf.errors import Problem, SourceErrors
from dlperf.plan.document import Document, KeyPath, Place, Value

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1_000_000
# Aliases may repeat a value; these bounds stop a few lines from growing into gigabytes.
MAX_VALUES = 20_000
MAX_DEPTH = 30

_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    form: value
    for word, value in {
        "": None,
        "~": None,
        "null": None,
        "true": True,
        "false": False,
        ".inf": float("inf"),
        "+.inf": float("inf"),
        "-.inf": float("-inf"),
        ".nan": float("nan"),
    }.items()
    for form in (word, word.capitalize(), word.upper())
}
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to the node graph. Its BaseResolver gives no implicit types: those are ours."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


def read_document(path: Path, *, shown: str) -> Document:
    """Read a YAML file that holds one mapping; `shown` names it in problems.

    Raises:
        SourceErrors: the file cannot be read, is too large, not UTF-8, not YAML, empty, or no mapping.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceErrors([Problem(shown, 0, 0, f"cannot be read: {error.strerror}")]) from None
    if len(content) > MAX_BYTES:
        raise SourceErrors([Problem(shown, 0, 0, f"is larger than {MAX_BYTES} bytes; is it the right file?")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise SourceErrors([Problem(shown, line, column, "is not UTF-8 text; save it as UTF-8")]) from None
    return parse_document(text, shown=shown)


def parse_document(text: str, *, shown: str) -> Document:
    """Parse YAML text that holds one mapping; raises SourceErrors like `read_document`."""
    root = _compose(text, shown)
    if root is None:
        raise SourceErrors([Problem(shown, 0, 0, "is empty; the pages in docs/ show what goes here")])
    reading = _Reading(shown)
    data = reading.value(root, ())
    if not isinstance(data, dict):
        problem = reading.place(root).problem("must hold a mapping of keys to values, such as 'seed: 0'")
        raise SourceErrors([*reading.problems, problem])
    return Document(
        path=shown,
        text=text,
        data=data,
        keys=reading.keys,
        values=reading.values,
        problems=tuple(reading.problems),
    )


def parse_scalar(text: str) -> Value:
    """Read one plain scalar as it would stand in a file: `5` is a number, `1n8g` is text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def _compose(text: str, shown: str) -> Node | None:
    try:
        node: Node | None = _Loader(text).get_single_node()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(shown, mark.line + 1, mark.column + 1) if mark else Place(shown)
        parts = (error.context, error.problem)
        said = ", ".join(part for part in parts if part)
        raise SourceErrors([place.problem(f"is not YAML: {said}")]) from None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(shown, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise SourceErrors([place.problem("holds a character that YAML does not allow")]) from None
    except RecursionError:
        raise SourceErrors([Problem(shown, 0, 0, "is nested too deeply")]) from None
    return node


class _Reading:
    """Turns nodes into values and collects places and problems on the way."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._count = 0
        self.keys: dict[KeyPath, Place] = {}
        self.values: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []

    def place(self, node: Node) -> Place:
        mark = node.start_mark
        return Place(self._shown, mark.line + 1, mark.column + 1)

    def value(self, node: Node, path: KeyPath) -> Value:
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise SourceErrors([self.place(node).problem("grows too large here; use fewer aliases")])
        self.values[path] = self.place(node)
        if node.tag not in _PLAIN_TAGS:
            self.problems.append(self.place(node).problem(f"tags such as {node.tag!r} are not allowed"))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return tuple(self.value(item, (*path, index)) for index, item in enumerate(node.value))
        return self._scalar(node)

    def _scalar(self, node: Node) -> Value:
        text = str(node.value)
        plain = isinstance(node, ScalarNode) and node.style is None
        try:
            return parse_scalar(text) if plain else text
        except ValueError:  # Python refuses to read integers of thousands of digits
            self.problems.append(self.place(node).problem("is too long for a number"))
            return None

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key is None:
                continue
            if key in found:
                first = self.keys[(*path, key)]
                message = f"key {key!r} stands twice (first in line {first.line}); remove one"
                self.problems.append(self.place(key_node).problem(message))
                continue
            self.keys[(*path, key)] = self.place(key_node)
            found[key] = self.value(value_node, (*path, key))
        return found

    def _key(self, node: Node) -> str | None:
        if not isinstance(node, ScalarNode):
            self.problems.append(self.place(node).problem("a key must be text"))
            return None
        if node.value == "<<" and node.style is None:
            self.problems.append(
                self.place(node).problem("merge keys (<<) are not known; write the keys out")
            )
            return None
        return str(node.value)
