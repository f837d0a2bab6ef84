"""Fixtures of the lab: real hosts in namespaces, made once, repaired after each test that broke one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from netlab import NetLab, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = 3


@pytest.fixture(scope="session")
def netlab() -> Iterator[NetLab]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no lab: {reason}")
    with NetLab(HOSTS) as lab:
        yield lab
