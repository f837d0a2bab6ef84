"""The tests of this folder run MXNet."""

from __future__ import annotations

import pytest
from engines import Engine


@pytest.fixture
def engine() -> Engine:
    # One thread waits for no other: on a busy machine two take many times as long.
    return Engine(name="mxnet", version="1.9.1", threads=1)
