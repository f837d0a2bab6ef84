"""The tests of this folder run OneFlow."""

from __future__ import annotations

import pytest
from engines import Engine


@pytest.fixture
def engine() -> Engine:
    quiet = {"GLOG_logtostderr": "1", "GLOG_minloglevel": "2"}  # as the adapter sets it
    return Engine(name="oneflow", version="0.9.0", threads=2, environment=quiet)
