"""What uv is told of pip's settings, and what of its output reaches a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dlperf.environments.uv import Uv, UvFailure, find_uv, index_arguments, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")
UV_NAMES = ("UV_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_STRATEGY")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES + UV_NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_settings_uv_is_told_nothing() -> None:
    assert ([], {}) == index_arguments()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"PIP_INDEX_URL": "https://here.example/simple"}, ["--default-index=https://here.example/simple"]),
        (
            {"PIP_EXTRA_INDEX_URL": "https://a.example https://b.example"},
            ["--index=https://a.example", "--index=https://b.example", "--index-strategy=unsafe-best-match"],
        ),
        ({"PIP_NO_INDEX": "true"}, ["--no-index"]),
        ({"PIP_NO_INDEX": "0"}, []),
        ({"PIP_INDEX_URL": "https://pip.example", "UV_DEFAULT_INDEX": "https://uv.example"}, []),
        (
            {"PIP_EXTRA_INDEX_URL": "https://a.example", "UV_INDEX_STRATEGY": "first-index"},
            ["--index=https://a.example"],
        ),
    ],
)
def test_passes_pips_settings_on(
    settings: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert (expected, {}) == index_arguments()


def test_a_relative_folder_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")
    monkeypatch.chdir(tmp_path)
    assert ([], {"UV_FIND_LINKS": f"{tmp_path}/wheels"}) == index_arguments()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"PIP_FIND_LINKS": "/a https://me:hunter2@b.example/x"}, "/a,https://me:hunter2@b.example/x"),
        ({"PIP_FIND_LINKS": "/a,b https://b.example/x,y"}, "file:///a%2Cb,https://b.example/x%2Cy"),
        ({"PIP_FIND_LINKS": "/pips", "UV_FIND_LINKS": "/uvs,https://b.example"}, "/uvs,https://b.example"),
    ],
)
def test_places_of_wheels_are_no_arguments(
    settings: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may hold a password."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert ([], {"UV_FIND_LINKS": expected}) == index_arguments()


def test_the_password_of_an_index_is_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:hunter%402@here.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example https://hunter3@b.example:8080/x")
    assert (
        [
            "--default-index=pip0=https://here.example/simple",
            "--index=https://a.example",
            "--index=pip2=https://b.example:8080/x",
            "--index-strategy=unsafe-best-match",
        ],
        {
            "UV_INDEX_PIP0_USERNAME": "me",
            "UV_INDEX_PIP0_PASSWORD": "hunter@2",
            "UV_INDEX_PIP2_USERNAME": "hunter3",
            "UV_INDEX_PIP2_PASSWORD": "",
        },
    ) == index_arguments()


RESOLUTION = """\
Using Python 3.11.7 environment at: a
error: No solution found when resolving dependencies
  cause: Because oneflow==0.9.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require \
oneflow==0.9.0, we can conclude that your requirements are unsatisfiable.

hint: You require CPython 3.11 (`cp311`), but we only found wheels for `oneflow` (v0.9.0) with the following \
Python ABI tags: `cp37m`, `cp38`, `cp39`, `cp310`
"""


def test_the_reason_is_one_line() -> None:
    assert (
        "No solution found when resolving dependencies; Because oneflow==0.9.0 has no wheels with a matching "
        "Python ABI tag (e.g., `cp311`) and you require oneflow==0.9.0, we can conclude that your "
        "requirements are unsatisfiable; You require CPython 3.11 (`cp311`), but we only found wheels for "
        "`oneflow` (v0.9.0) with the following Python ABI tags: `cp37m`, `cp38`, `cp39`, `cp310`"
    ) == reason_of([line.strip() for line in RESOLUTION.splitlines()])


def test_without_an_error_line_the_reason_is_the_end() -> None:
    assert "b; c; d" == reason_of(["a", "b", "c", "d"])


def test_a_failure_carries_uvs_reason(report: Callable[[str], None]) -> None:
    with pytest.raises(UvFailure, match="unrecognized subcommand 'no-such-command'"):
        find_uv(report).run(["no-such-command"], env={}, hold=())


def test_a_network_that_is_down_is_the_reason(report: Callable[[str], None], tmp_path: Path) -> None:
    arguments = ["pip", "install", "--target", str(tmp_path / "t"), "--offline", "no-such-package-here"]
    with pytest.raises(UvFailure, match="network was disabled"):
        find_uv(report).run(arguments, env={}, hold=())


def test_the_password_of_an_index_is_in_no_message(tmp_path: Path) -> None:
    """With a program in uv's place that prints what it was given: uv's own messages may change."""
    said: list[str] = []
    program = tmp_path / "uv"
    program.write_text('#!/bin/sh\necho " + downloading from $6"\necho "error: no answer from $6"\nexit 2\n')
    program.chmod(0o755)
    uv = Uv(path=program, report=said.append)
    with pytest.raises(UvFailure) as caught:
        uv.run(["pip", "install", "https://me:hunter2@here.example/simple"], env={}, hold=())
    assert "no answer from https://(redacted)@here.example/simple" == str(caught.value)
    assert not [line for line in said if "hunter2" in line]
