"""Counts in messages: one of a thing is not several."""

from __future__ import annotations

import re
from pathlib import Path

import dlperf
from dlperf.wording import plural


def test_one_is_one_and_all_other_counts_are_several() -> None:
    assert ["0 runs", "1 run", "2 runs"] == [plural(count, "run") for count in range(3)]
    assert ["1 process", "2 processes"] == [plural(count, "process", "processes") for count in (1, 2)]


def test_no_message_makes_its_plural_by_hand() -> None:
    """Such as `{'s' if count > 1 else ''}`, or `{len(steps)} steps` of what may be one."""
    hand_made = re.compile(
        r"""(\{|\* ?\(?)['"]e?s['"] if |['"]s['"] \* |\{['"]{2} if .* else ['"]e?s['"]\}"""
        r"""|\{[\w.]*(steps|sessions|probes|images|repeats)\} (steps|sessions|probes|images|repeats)\b"""
    )
    folder = Path(dlperf.__file__).parent
    lines = [
        f"{path.relative_to(folder)}: {line.strip()}"
        for path in sorted(folder.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if hand_made.search(line)
    ]
    assert [] == lines
