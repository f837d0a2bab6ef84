"""A document against a pydantic model: all problems at once, each at its place in the file."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_core import ErrorDetails

    from dlperf.errors import Problem
    from dlperf.plan.document import Document, KeyPath

ModelT = TypeVar("ModelT", bound=BaseModel)

# So many letters of a word are enough to name the longer one that holds them ('warmup').
_PART = 4


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
    return [
        _problem(details, model=model, document=document, location=(*below, *details["loc"]), below=below)
        for details in error.errors(include_url=False)
        if not _follows_from_another(details)
    ]


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


def _problem(
    details: ErrorDetails, *, model: type[BaseModel], document: Document, location: KeyPath, below: KeyPath
) -> Problem:
    path = document.existing(location)
    if details["type"] == "extra_forbidden":
        key = str(location[-1])
        place = document.keys.get(path) or document.place(path)
        return place.problem(unknown("key", key, _fields_at(model, location[len(below) : -1])))
    message = _message(details)
    return document.place(path).problem(f"{dotted(path)}: {message}" if path else message)


def _follows_from_another(details: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because it left out items that are wrong themselves."""
    return details["type"] == "too_short" and bool(details["input"])


_MESSAGES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "too_short": "must not be empty",
    "finite_number": "must be a finite number",
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
    if kind in ("value_error", "assertion_error"):
        return str(details["ctx"]["error"])
    message = _MESSAGES.get(kind) or details["msg"].replace("Input should be", "must be")
    if kind == "too_short":
        return message
    number_for_text = kind == "string_type" and isinstance(given, int | float)
    return f"{message}, not {_shown(given)}" + ("; put it in quotes" if number_for_text else "")


def _shown(given: object) -> str:
    if given is None:
        return "empty"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, tuple | list):
        return "a list"
    return f"text {given!r}" if isinstance(given, str) else repr(given)


def _fields_at(model: type[BaseModel], location: KeyPath) -> list[str]:
    """The keys that the models at a location have; list indexes and names of union members change nothing."""
    models = [model]
    for part in location:
        fields = [candidate.model_fields[part] for candidate in models if part in candidate.model_fields]
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    return [name for candidate in models for name in candidate.model_fields]


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]
