"""Fixtures for the supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import until
from supervisor_lab import Lab

from dlperf.environments.uv import find_python, find_uv
from dlperf.errors import EnvironmentUnavailable


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    with made.stack:
        yield made
    until(lambda: not made.left(), what="every process of the test is gone")


@pytest.fixture(scope="session")
def oldest_python() -> str:
    """CPython 3.8, the oldest that the supervisor supports."""
    try:
        return str(find_python(("3.8",), uv=find_uv(print)))
    except EnvironmentUnavailable as error:
        pytest.skip(str(error))
