"""YAML text to values that know their places."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.errors import SourceErrors
from dlperf.plan.documents import (
    MAX_BYTES,
    Document,
    KeyPath,
    SourceLocation,
    parse_document,
    parse_scalar,
    read_document,
)

if TYPE_CHECKING:
    from pathlib import Path


def parse(text: str) -> Document:
    return parse_document(text, shown="s.yaml")


def problems(text: str) -> list[str]:
    """What stops the reading of `text`, or what it goes on after."""
    try:
        return [str(problem) for problem in parse(text).problems]
    except SourceErrors as error:
        return [str(problem) for problem in error.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("360_232", 360232),
        ("0.1", 0.1),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2021-02-22", "2021-02-22"),
        ("1n8g", "1n8g"),
        ("1.9.1", "1.9.1"),
        ("0x10", "0x10"),
    ],
)
def test_a_plain_scalar_is_what_it_looks_like(text: str, value: object) -> None:
    assert value == parse_scalar(text)
    assert {"key": value} == parse(f"key: {text}\n").data


def test_quotes_make_text() -> None:
    assert {"a": "5", "b": "true", "c": "x"} == parse("a: '5'\nb: \"true\"\nc: |-\n  x\n").data


def test_every_key_and_value_has_its_place() -> None:
    document = parse("a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert SourceLocation("s.yaml", 1, 4) == document.place(("a",))
    assert SourceLocation("s.yaml", 3, 5) == document.place(("b", 0))
    assert SourceLocation("s.yaml", 4, 9) == document.place(("b", 1, "c"))
    assert SourceLocation("s.yaml", 2, 1) == document.place(("b",))  # a list shows at its key


def test_a_place_of_something_absent_is_that_of_what_lacks_it() -> None:
    document = parse("a:\n  b: {}\n")
    assert SourceLocation("s.yaml", 2, 3) == document.place(("a", "b", "absent"))


def test_an_alias_is_the_value_of_its_anchor() -> None:
    assert {"a": (1, 2), "b": (1, 2)} == parse("a: &x [1, 2]\nb: *x\n").data


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "",
            "s.yaml: is empty; `dlperf init` writes files to start from",
        ),
        (
            "# only a comment\n",
            "s.yaml: is empty; `dlperf init` writes files to start from",
        ),
        ("- a\n", "s.yaml:1:1: must hold a mapping of keys to values, such as 'seed: 0'"),
        ("text\n", "s.yaml:1:1: must hold a mapping of keys to values, such as 'seed: 0'"),
        ("a: 1\nb: 2\na: 3\n", "s.yaml:3:1: key 'a' appears twice (first on line 1); remove one"),
        ("a: !!python/name:os.system x\n", None),
        ("a: !mine x\n", "s.yaml:1:4: tags such as '!mine' are not allowed"),
        ("<<: {a: 1}\n", "s.yaml:1:1: merge keys (<<) are not supported; write the keys out"),
        ("? [a]\n: 1\n", "s.yaml:1:3: a key must be text"),
        ("a: *x\n", "s.yaml:1:4: is not YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 1\n", None),
        ("a: [1\nb: 2\n", None),
        ("a: 1\n\tb: 2\n", None),
        ("a: b\x00\n", "s.yaml:1:5: contains a character that YAML does not allow"),
        ('a: "b\\0"\n', "s.yaml:1:4: contains the character NUL (\\0); remove it"),
        ('"a\\0": b\n', "s.yaml:1:1: contains the character NUL (\\0); remove it"),
        ("a: " + "9" * 5000 + "\n", "s.yaml:1:4: is too long for a number"),
        ("a: &a [*a]\n", None),
        ("[" * 1500, None),
    ],
)
def test_what_is_no_good_yaml_is_one_problem(text: str, problem: str | None) -> None:
    found = problems(text)
    assert 1 == len(found)
    assert found[0].startswith("s.yaml")
    if problem is not None:
        assert problem == found[0]


def test_a_few_lines_of_aliases_cannot_grow_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "is too large once aliases are expanded" in problems("\n".join(lines))[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: is not UTF-8 text; save it as UTF-8"),
        (b"x" * (MAX_BYTES + 1), f"f.yaml: is larger than {MAX_BYTES} bytes; is it the right file?"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "f.yaml").write_bytes(content)
    with pytest.raises(SourceErrors) as caught:
        read_document(tmp_path / "f.yaml", shown="f.yaml")
    assert problem == str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceErrors, match=r"^f.yaml: cannot be read: No such file"):
        read_document(tmp_path / "f.yaml", shown="f.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert {"a": 1, "b": "x"} == read_document(tmp_path / "f.yaml", shown="f.yaml").data


_TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=12)
_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
)
_TREES = st.dictionaries(
    _TEXT.filter(lambda key: key != "<<"),
    st.recursive(
        _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4)
    ),
    min_size=1,
    max_size=5,
)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


@given(_TREES)
def test_json_is_read_as_json_reads_it_and_every_place_holds_its_key(tree: dict[str, Any]) -> None:
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    document = parse(text)
    assert _with_tuples(tree) == document.data
    assert () == document.problems
    lines = text.split("\n")
    for path, place in document.keys.items():
        key, _ = json.JSONDecoder().raw_decode(lines[place.line - 1], place.column - 1)
        assert path[-1] == key


@given(st.text(max_size=200))
def test_no_text_raises_anything_but_the_documented_error(text: str) -> None:
    with suppress(SourceErrors):
        assert isinstance(parse(text).data, dict)


def test_a_value_from_the_command_line_shows_as_such() -> None:
    document = parse("measure: {repeats: 5}\n").with_value(
        ("measure", "repeats"), 3, label="-S measure.repeats=3"
    )
    path: KeyPath = ("measure", "repeats")
    assert {"measure": {"repeats": 3}} == document.data
    assert SourceLocation("-S measure.repeats=3") == document.place(path)
