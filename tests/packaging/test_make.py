"""What `make` runs, as `make -n` prints it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("target", "pytests"), [("test", 2), ("test-fast", 1)])
def test_tests_say_at_their_end_what_took_longest(target: str, pytests: int) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert pytests == len(
        re.findall(r"/pytest .*--durations 8 --durations-min 1$", done.stdout, re.MULTILINE)
    )
