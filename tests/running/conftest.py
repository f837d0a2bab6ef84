"""Fixtures for running sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from processes import until
from sweep_lab import SweepLab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SweepLab]:
    made = SweepLab(tmp_path)
    with made.stack:
        yield made
    until(lambda: not made.left(), what="every process of the test is gone")
