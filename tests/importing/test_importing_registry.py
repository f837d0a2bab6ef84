"""Dialects of other packages: used like the shipped ones, refused with a reason when they cannot be."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint

import pytest

from dlperf import plugins
from dlperf.errors import UserError
from dlperf.importing.dialects import GROUP, load_dialects
from dlperf.importing.dialects.base import Dialect, Scope

MINE = Dialect(
    name="mine",
    program="mine",
    scope=Scope.JOB,
    needles=(b"img/s",),
    patterns=(re.compile(rb"(?P<samples_per_sec>\d+) img/s"),),
)
WITHOUT_RATE = Dialect(
    name="without", program="w", scope=Scope.JOB, needles=(b"x",), patterns=(re.compile(rb"(?P<loss>\d)"),)
)
UNKNOWN_GROUP = Dialect(
    name="unknown",
    program="u",
    scope=Scope.JOB,
    needles=(b"x",),
    patterns=(re.compile(rb"(?P<samples_per_sec>\d) (?P<speed>\d)"),),
)
NOT_ONE = "text"


def register(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    made = [EntryPoint(name=name, value=value, group=GROUP) for name, value in points]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: made if group == GROUP else [])


def test_a_package_adds_a_dialect_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ("mine", f"{__name__}:MINE"))
    assert {"mine": MINE} == load_dialects()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("gone", "no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("text", f"{__name__}:NOT_ONE", "TypeError: it is not a dlperf.importing.dialects.base.Dialect"),
        ("without", f"{__name__}:WITHOUT_RATE", "ValueError: no pattern has a group samples_per_sec"),
        ("unknown", f"{__name__}:UNKNOWN_GROUP", "ValueError: unknown groups speed; known: epoch, "),
        ("other", f"{__name__}:MINE", "ValueError: it calls itself 'mine'"),
    ],
)
def test_what_cannot_be_used_is_reported_and_takes_nothing_down(
    name: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, ("mine", f"{__name__}:MINE"), (name, value))
    reports: list[str] = []
    assert {"mine": MINE} == load_dialects(report=reports.append)
    (report,) = reports
    assert report.startswith(f"dialect {name!r} of package (unknown) cannot be used: {why}")


def test_two_packages_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ("mine", f"{__name__}:MINE"), ("mine", f"{__name__}:WITHOUT_RATE"))
    with pytest.raises(UserError, match="dialect 'mine' is registered 2 times"):
        load_dialects()
