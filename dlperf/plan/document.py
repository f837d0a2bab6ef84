"""A YAML file as plain values that know where they stand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dlperf.errors import Problem, UserError

Value = bool | int | float | str | None | tuple["Value", ...] | dict[str, "Value"]
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line and column count from 1, line 0 means the whole of `path`."""

    path: str
    line: int = 0
    column: int = 0

    def problem(self, message: str) -> Problem:
        """The problem `message` at this place."""
        return Problem(self.path, self.line, self.column, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file's values; for each key path the place of its key and of its value."""

    path: str
    text: str
    data: dict[str, Value]
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # what did not stop the reading: duplicate keys and the like

    def existing(self, location: KeyPath) -> KeyPath:
        """`location` without the parts that the file does not have (defaults, names of union members)."""
        path: KeyPath = ()
        for part in location:
            if (*path, part) in self.values:
                path = (*path, part)
        return path

    def at(self, path: KeyPath) -> Value:
        """The value at an existing path."""
        value: Value = self.data
        for part in path:
            value = value[part]  # type: ignore[index]  # existing paths fit their containers
        return value

    def place(self, location: KeyPath) -> Place:
        """The place of the value at `location`; of its key where the value is a mapping or a sequence."""
        path = self.existing(location)
        if path in self.keys and isinstance(self.at(path), dict | tuple):
            return self.keys[path]
        return self.values.get(path, Place(self.path))

    def with_value(self, path: tuple[str, ...], value: Value, *, label: str) -> Document:
        """A copy whose value at `path` comes from the command line; problems about it name `label`.

        Raises:
            UserError: a part of the path is no mapping.
        """
        place = Place(label)
        values = {kept: at for kept, at in self.values.items() if kept[: len(path)] != path}
        values |= {path[:depth]: place for depth in range(1, len(path)) if path[:depth] not in values}
        values |= {(*path, *inner): place for inner in _paths(value)}
        return replace(
            self,
            data=_with_value(self.data, path, value, label=label),
            keys={**self.keys, path: place},
            values=values,
        )


def _paths(value: Value) -> list[KeyPath]:
    items = enumerate(value) if isinstance(value, tuple) else ()
    return [(), *((index, *inner) for index, item in items for inner in _paths(item))]


def _with_value(data: Value, path: tuple[str, ...], value: Value, *, label: str) -> dict[str, Value]:
    if not isinstance(data, dict):
        raise UserError(f"{label}: the file holds no mapping where {path[0]!r} should stand")
    head, *rest = path
    inner = _with_value(data.get(head, {}), tuple(rest), value, label=label) if rest else value
    return {**data, head: inner}
