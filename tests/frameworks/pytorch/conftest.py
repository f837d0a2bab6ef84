"""The tests of this folder run PyTorch."""

from __future__ import annotations

import pytest
from engines import Engine


@pytest.fixture
def engine() -> Engine:
    # One thread waits for no other: on a busy machine two take many times as long.
    return Engine(name="pytorch", version="2.13.0", threads=1)
