"""Fixtures of the lab: real hosts in namespaces, made once, repaired after each test that broke one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster_lab import WORK, ClusterLab
from netlab import NetLab, why_not
from processes import until
from slurm_lab import Slurm, SlurmSweepLab
from slurm_lab import why_not as why_no_slurm

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS, SLURM_HOSTS = 4, 2


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
        until(lambda host=host: not made.left_on(host), what=f"nothing is left on {host.name}")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Its hosts are its own: what a test breaks there breaks no other test's."""
    reason = why_no_slurm()
    if reason is not None:
        pytest.skip(f"no Slurm: {reason}")
    with NetLab(SLURM_HOSTS) as net, Slurm(net) as made:
        yield made


@pytest.fixture
def job_lab(slurm: Slurm) -> Iterator[SlurmSweepLab]:
    folder = Path(tempfile.mkdtemp(prefix="shared-", dir=slurm.net.folder))
    made = SlurmSweepLab(folder, slurm=slurm)
    with made.stack:
        yield made
    slurm.clear()
    for host in slurm.net.hosts:
        until(lambda host=host: not made.left_on(host), what=f"nothing is left on {host.name}")
