"""A YAML file as plain values that know where they stand."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import MappingNode, Node, SafeLoader, ScalarNode, SequenceNode
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from dlperf.errors import Problem, SourceErrors, UserError
from dlperf.files import shipped_folder

Value = bool | int | float | str | None | tuple["Value", ...] | dict[str, "Value"]
KeyPath = tuple[str | int, ...]
Kind = Literal["sweep", "experiment", "cluster"]


@dataclass(frozen=True, slots=True)
class SourceLocation:
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
    keys: dict[KeyPath, SourceLocation] = field(default_factory=dict)
    values: dict[KeyPath, SourceLocation] = field(default_factory=dict)
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

    def place(self, location: KeyPath) -> SourceLocation:
        """The place of the value at `location`; of its key where the value is a mapping or a sequence."""
        path = self.existing(location)
        if path in self.keys and isinstance(self.at(path), dict | tuple):
            return self.keys[path]
        return self.values.get(path, SourceLocation(self.path))

    def problem(self, location: KeyPath, message: str) -> Problem:
        """The problem `message` with the value at `location`, shown with the key path."""
        return self.place(location).problem(f"{dotted(location)}: {message}" if location else message)

    def with_value(self, path: tuple[str, ...], value: Value, *, label: str) -> Document:
        """A copy whose value at `path` comes from the command line; problems about it name `label`.

        UserError where a part of the path is no mapping.
        """
        place = SourceLocation(label)
        values = {kept: at for kept, at in self.values.items() if kept[: len(path)] != path}
        values |= {path[:depth]: place for depth in range(1, len(path)) if path[:depth] not in values}
        items = [(index,) for index in range(len(value))] if isinstance(value, tuple) else []
        values |= {(*path, *item): place for item in ((), *items)}
        data = _with_value(self.data, path, value, label=label)
        return replace(self, data=data, keys={**self.keys, path: place}, values=values)


def _with_value(data: Value, path: tuple[str, ...], value: Value, *, label: str) -> dict[str, Value]:
    if not isinstance(data, dict):
        raise UserError(f"{label}: the file has no mapping that could hold {path[0]!r}")
    head, *rest = path
    inner = _with_value(data.get(head, {}), tuple(rest), value, label=label) if rest else value
    return {**data, head: inner}


MAX_BYTES = 1_000_000
# Aliases may repeat a value; these bounds stop a few lines from growing into gigabytes.
MAX_VALUES = 20_000
MAX_DEPTH = 30

_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SMALL_WORDS: dict[str, bool | float | None] = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "false": False,
}
_SMALL_WORDS |= {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_WORDS = {
    form: value for word, value in _SMALL_WORDS.items() for form in (word, word.capitalize(), word.upper())
}
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


class _Loader(SafeLoader):
    """PyYAML up to the node graph."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """As PyYAML does; a tag that stands in the file is told from one that PyYAML adds."""
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]
        node: Node | None = super().compose_node(parent, index)
        if tag is not None and node is not None:
            node.tag = tag.replace("tag:yaml.org,2002:", "!!")
        return node


_Loader.yaml_implicit_resolvers = {}  # `parse_scalar` reads the types of YAML 1.2


def read_document(path: Path, *, shown: str) -> Document:
    """Read a YAML file that holds one mapping; `shown` names it in problems.

    SourceErrors where the file cannot be read, is too large, not UTF-8, not YAML, empty, or no mapping.
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
        raise SourceErrors([Problem(shown, 0, 0, "is empty; `dlperf init` writes files to start from")])
    reading = _Reading(shown)
    data = reading.value(root, ())
    if not isinstance(data, dict):
        problem = reading.place(root).problem("must hold a mapping of keys to values, such as 'seed: 0'")
        raise SourceErrors([*reading.problems, problem])
    problems = tuple(reading.problems)
    return Document(
        path=shown, text=text, data=data, keys=reading.keys, values=reading.values, problems=problems
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
        place = SourceLocation(shown, mark.line + 1, mark.column + 1) if mark else SourceLocation(shown)
        if mark and "\\t" in str(error.problem):
            raise SourceErrors([place.problem("a tab indents this line; use spaces")]) from None
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise SourceErrors([place.problem(f"is not YAML: {said}")]) from None
    except ReaderError as error:
        before = text[: error.position]
        place = SourceLocation(shown, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise SourceErrors([place.problem("contains a character that YAML does not allow")]) from None
    except RecursionError:
        raise SourceErrors([Problem(shown, 0, 0, "is nested too deeply")]) from None
    return node


class _Reading:
    """Turns nodes into values and collects places and problems on the way."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._count = 0
        self.keys: dict[KeyPath, SourceLocation] = {}
        self.values: dict[KeyPath, SourceLocation] = {}
        self.problems: list[Problem] = []

    def place(self, node: Node) -> SourceLocation:
        mark = node.start_mark
        return SourceLocation(self._shown, mark.line + 1, mark.column + 1)

    def _report(self, node: Node, message: str) -> None:
        self.problems.append(self.place(node).problem(message))

    def value(self, node: Node, path: KeyPath) -> Value:
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise SourceErrors(
                [self.place(node).problem("is too large once aliases are expanded; use fewer aliases")]
            )
        self.values[path] = self.place(node)
        if node.tag not in _PLAIN_TAGS:
            self._report(node, f"tags such as {node.tag!r} are not allowed")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return tuple(self.value(item, (*path, index)) for index, item in enumerate(node.value))
        return self._scalar(node)

    def _scalar(self, node: Node) -> Value:
        text = self._text(node)
        plain = isinstance(node, ScalarNode) and node.style is None
        try:
            return parse_scalar(text) if plain else text
        except ValueError:  # Python refuses to read integers of thousands of digits
            self._report(node, "is too long for a number")
            return None

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key is None:
                continue
            if key in found:
                first = self.keys[(*path, key)]
                self._report(key_node, f"key {key!r} appears twice (first on line {first.line}); remove one")
                continue
            self.keys[(*path, key)] = self.place(key_node)
            found[key] = self.value(value_node, (*path, key))
        return found

    def _key(self, node: Node) -> str | None:
        if not isinstance(node, ScalarNode):
            self._report(node, "a key must be text")
            return None
        if node.value == "<<" and node.style is None:
            self._report(node, "merge keys (<<) are not supported; write the keys out")
            return None
        return self._text(node)

    def _text(self, node: Node) -> str:
        text = str(node.value)
        if "\0" in text:  # neither a file's name, a variable nor an argument of a program can hold it
            self._report(node, "contains the character NUL (\\0); remove it")
        return text


ModelT = TypeVar("ModelT", bound=BaseModel)

# So many letters of a word are enough to name the longer one that holds them ('warmup').
_PART = 4


# Keys that only files of one kind have, and how such a file is used.
_SIGNS: dict[Kind, tuple[frozenset[str], str]] = {
    "sweep": (frozenset({"frameworks", "exclude", "include", "measure"}), "run it: dlperf run FILE"),
    "experiment": (
        frozenset({"network", "head", "loss", "dataset"}),
        "name it in a sweep: 'experiment: NAME'",
    ),
    "cluster": (
        frozenset({"nodes", "transport", "devices", "cores"}),
        "run a sweep on it: dlperf run SWEEP --cluster FILE",
    ),
}


def require_kind(document: Document, kind: Kind) -> None:
    """Raise SourceErrors where a file is of another kind: its keys would all be unknown."""
    own, _ = _SIGNS[kind]
    if own & document.data.keys():
        return
    for other, (signs, use) in _SIGNS.items():
        if signs & document.data.keys():
            names = (f"an {name}" if name == "experiment" else f"a {name}" for name in (other, kind))
            message = f"is {', not '.join(names)}; {use}"
            raise SourceErrors([Problem(document.path, 0, 0, message)])


def validate(
    model: type[ModelT], document: Document, *, context: Mapping[str, Any] | None = None
) -> tuple[ModelT | None, list[Problem]]:
    """The document as `model`, or None and the problems found."""
    try:
        return model.model_validate(document.data, context=dict(context or {})), []
    except ValidationError as error:
        return None, problems_of(error, model=model, document=document)


def problems_of(
    error: ValidationError, *, model: type[BaseModel], document: Document, below: KeyPath = ()
) -> list[Problem]:
    """The problems that `error` reports about the part of `document` at the key path `below`."""
    problems = []
    for details in error.errors(include_url=False):
        path = document.existing((*below, *details["loc"]))
        if details["type"] == "too_short" and details["input"]:
            continue  # pydantic counts without the items that are wrong themselves
        if details["type"] == "extra_forbidden":
            *parents, key = details["loc"]
            place = document.keys.get(path) or document.place(path)
            problems.append(place.problem(unknown("key", str(key), _fields_at(model, parents))))
        else:
            problems.append(document.problem(path, _message(details)))
    return problems


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, or nothing."""
    known = list(known)
    holding = [name for name in known if len(word) >= _PART and word.lower() in name.lower()]
    close = holding[:1] or difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """`unknown KIND 'word'` with the nearest spelling, or with all that is known where none is near."""
    known = list(known)
    hint = nearest(word, known) or f"; known: {', '.join(known)}"
    return f"unknown {kind} {word!r}{hint}"


def dotted(path: KeyPath) -> str:
    """A key path as people write it: `include[2].topology`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


_MESSAGES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
}


def _message(details: ErrorDetails) -> str:
    kind, given = details["type"], details["input"]
    if kind == "missing":
        return f"key {str(details['loc'][-1])!r} is missing"
    if kind == "literal_error":
        expected = details["ctx"]["expected"]
        known = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        hint = nearest(given, known) if isinstance(given, str) else ""
        return f"must be one of {', '.join(known)}, not {_shown(given)}{hint}"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind in {"too_short", "string_too_short"}:
        return "must not be empty"
    if given is None:
        return "has no value; write one, or remove the key"
    message = _MESSAGES.get(kind) or details["msg"].replace("Input should be", "must be")
    number_for_text = kind == "string_type" and isinstance(given, int | float)
    hint = "; put it in quotes" if number_for_text else ""
    if kind == "int_type" and isinstance(given, str) and given.lower() == "max":
        hint = "; where the largest is searched for, write it in small letters: max"
    return f"{message}, not {_shown(given)}{hint}"


def _shown(given: object) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, tuple | list):
        return "a list"
    return f"text {given!r}" if isinstance(given, str) else repr(given)


def _fields_at(model: type[BaseModel], location: Iterable[str | int]) -> list[str]:
    """The keys that the models at a location have; list indexes and names of union members change nothing."""
    models = [model]
    for part in location:
        fields = [each.model_fields[part] for each in models if part in each.model_fields]
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    return [field.alias or name for candidate in models for name, field in candidate.model_fields.items()]


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]


_SUFFIXES = (".yaml", ".yml")


def find_file(kind: Kind, name: str, *, folders: tuple[Path, ...]) -> Path:
    """The file that `name` means: a path as it stands, or `NAME`, `sweeps/NAME`, `sweeps/NAME.yaml`.

    A path is relative to the first of `folders`; a name is looked up in `<folder>/sweeps` (or `experiments`,
    `clusters`) of each of `folders`, then among the shipped files. UserError where there is no such file.
    """
    if not name:
        raise UserError(f"the name of a {kind} is empty; `dlperf list {kind}s` shows what there is")
    written = folders[0] / Path(name).expanduser()
    if written.suffix in _SUFFIXES and written.is_file():
        return written
    relative = Path(name)
    if str(relative.parent) in (".", f"{kind}s"):
        stem = relative.name.removesuffix(".yaml").removesuffix(".yml")
        candidates = (
            folder / f"{stem}{suffix}" for folder in _folders(kind, folders) for suffix in _SUFFIXES
        )
        found = next((file for file in candidates if file.is_file()), None)
        if found is not None:
            return found
    if written.is_file():
        raise UserError(f"{name}: a {kind} must be a YAML file; its name ends in .yaml or .yml")
    if written.is_dir():
        raise UserError(f"{name} is a folder; name one {kind} file in it")
    raise UserError(unknown(kind, name, files_by_name(kind, folders=folders)))


def files_by_name(kind: Kind, *, folders: tuple[Path, ...]) -> dict[str, Path]:
    """Each name that `find_file` finds without a path, in alphabetical order, with its file."""
    found: dict[str, Path] = {}
    for folder in _folders(kind, folders):
        if folder.is_dir():
            for file in sorted(folder.iterdir()):
                if file.suffix in _SUFFIXES:
                    found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def shown(path: Path, *, folder: Path) -> str:
    """The path as a person in `folder` would write it."""
    absolute = path.absolute()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _folders(kind: Kind, folders: tuple[Path, ...]) -> tuple[Path, ...]:
    plural = f"{kind}s"
    return (*(folder / plural for folder in folders), shipped_folder(plural))
