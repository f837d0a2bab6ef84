"""Fixtures of the lab: real hosts in namespaces, made once, repaired after each test that broke one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster_lab import WORK, ClusterLab
from netlab import NetLab, why_not
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS = 4


@pytest.fixture(scope="session")
def netlab() -> Iterator[NetLab]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no lab: {reason}")
    with NetLab(HOSTS) as lab:
        yield lab


@pytest.fixture
def lab(netlab: NetLab, tmp_path: Path) -> Iterator[ClusterLab]:
    for host in netlab.hosts:
        host.run("rm", "-rf", f"{WORK}/runs")
    made = ClusterLab(tmp_path, net=netlab)
    with made.stack:
        yield made
    for host in netlab.hosts:
        until(lambda host=host: not made.left_on(host), limit=30, what=f"nothing is left on {host.name}")
